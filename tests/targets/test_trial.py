"""A file that computes something else is refused when it is written."""

import pytest
import torch

import packlight as pl
from packlight.targets.contract import Session
from packlight.targets.trial import run_beside
from packlight.testing.examples import models


class Answers(Session):
    """What the Model answers, changed."""

    def __init__(self, model, change):
        self.model, self.change = model.copy().eval(), change

    def run(self, inputs):
        with torch.no_grad():
            return [self.change(t).numpy() for t in self.model.flat(*(torch.from_numpy(x) for x in inputs))]


def test_a_file_that_is_right_passes():
    model = models()[0]
    run_beside(model, Answers(model, lambda t: t), {"batch": 1}, "the converter")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: 1.05 * t, "the converter changes what convolutions computes"),
        (lambda t: t[:, :2], "gives .* the shape"),
    ],
    ids=["values", "shape"],
)
def test_a_file_that_is_wrong_is_refused(change, told):
    model = models()[0]
    with pytest.raises(pl.PacklightError, match=told):
        run_beside(model, Answers(model, change), {"batch": 1}, "the converter")


def test_a_file_that_is_right_only_the_first_time_is_refused():
    model, seen = models()[0], []

    def change(t):
        seen.append(t)
        return t if len(seen) == 1 else 2 * t

    with pytest.raises(pl.PacklightError, match="the converter changes what convolutions computes"):
        run_beside(model, Answers(model, change), {"batch": 1}, "the converter")
