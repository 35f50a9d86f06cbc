"""Rounds over runners: the order alternates, and one that fails does not take the others along."""

import pytest

from benchmarks.interleave import interleave, ratio
from benchmarks.process import WorkerFailure


class Timed:
    """A runner that takes known seconds, notes its calls, and fails at the given one."""

    def __init__(self, name, seconds, calls, fails_at=None):
        self.name, self.seconds, self.calls, self.fails_at = name, seconds, calls, fails_at
        self.count = 0

    def time(self, batch, seconds):
        self.calls.append(self.name)
        self.count += 1
        if self.count == self.fails_at:
            raise WorkerFailure("crashed")
        return None if self.seconds is None else [self.seconds] * 3


def refuse(name, failure):
    raise AssertionError(name)


def test_every_round_times_all_in_an_order_that_alternates():
    calls: list[str] = []
    runners = {name: Timed(name, seconds, calls) for name, seconds in (("a", 0.02), ("b", 0.01))}
    rounds = interleave(runners, 1, 3, refuse)
    assert rounds == {"a": [0.02] * 3, "b": [0.01] * 3}
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # the first two warm up


@pytest.mark.parametrize("fails_at", [1, 3], ids=["warming up", "in the second round"])
def test_a_runner_that_fails_is_told_and_left_out(fails_at):
    runners = {"a": Timed("a", 0.02, []), "b": Timed("b", 0.01, [], fails_at)}
    told = []

    def on_failure(name, failure):
        del runners[name]  # as a case does
        told.append((name, str(failure)))

    assert interleave(runners, 1, 4, on_failure) == {"a": [0.02] * 4}
    assert told == [("b", "crashed")]


def test_what_is_only_stored_is_left_out():
    assert interleave({"a": Timed("a", 0.02, []), "b": Timed("b", None, [])}, 1, 2, refuse).keys() == {"a"}


def test_heavy_networks_get_fewer_rounds():
    slow = Timed("a", 5.0, [])
    assert len(interleave({"a": slow}, 1, 51, refuse)["a"]) == 9


def test_a_ratio_is_taken_within_rounds():
    drifting = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = ratio([t / 2 for t in drifting], drifting)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
