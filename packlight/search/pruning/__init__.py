"""Pruning with what it takes from a task, and what is told of it."""
