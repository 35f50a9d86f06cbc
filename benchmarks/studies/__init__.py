"""Comparisons of ways to train, a module each: `study(folder)` yields findings, resumable in that folder."""
