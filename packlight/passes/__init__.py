"""Passes: Model → Model, one algorithm a file; none mutates what it was given."""
