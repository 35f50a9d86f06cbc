"""The public functions: each joins rooms that do not know one another. What README shows is stable."""
