"""Keras 3 files → Model: each layer becomes torch's own, in a process of its own where Keras runs on torch."""
