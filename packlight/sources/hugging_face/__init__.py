"""Folders that hold a network of the `transformers` package → Model. Nothing is fetched."""
