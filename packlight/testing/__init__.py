"""Contracts that every pass, target and source must meet, packlight's own and those of plug-ins.

Subclass one in your tests, say what is to be tested, and pytest runs the rest:

    from packlight.testing import PassContract

    class TestMyPass(PassContract):
        def apply(self, model):
            return my_pass(model, seed=0)

They need neither pytest nor torch to be imported, and pull in what they test only when they run.
"""

from packlight.testing.passes import PassContract
from packlight.testing.sources import SourceContract
from packlight.testing.targets import TargetContract

__all__ = ["PassContract", "SourceContract", "TargetContract"]
