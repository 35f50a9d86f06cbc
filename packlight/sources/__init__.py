"""Networks of other frameworks → Model."""

from packlight.sources.torch_module import from_module

__all__ = ["from_module"]
