"""TorchScript archives → Model: their graph is followed operator by operator, in a process of its own."""
