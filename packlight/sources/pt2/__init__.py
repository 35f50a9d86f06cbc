"""PyTorch's `.pt2` archives → Model, without running anything that they hold."""
