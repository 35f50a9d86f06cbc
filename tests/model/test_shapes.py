"""Shapes without computing."""

from __future__ import annotations

import logging

import pytest
import torch
from captures import captured
from torch import nn
from zoo import ZOO

from packlight.errors import PacklightError
from packlight.model.shapes import bytes_of, propagate, shape_of
from packlight.sources import from_module


@pytest.mark.parametrize("name", ZOO)
def test_propagated_shapes_and_dtypes_are_the_real_ones(name):
    model = captured(name).model.copy()
    sizes = dict.fromkeys(model.dims, 4)
    propagate(model, **sizes)
    seen = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            seen[n] = super().run_node(n)
            return seen[n]

    Watch(model.graph_module).run(*model.example_inputs(**sizes))
    for node, value in seen.items():
        if isinstance(value, torch.Tensor):
            assert shape_of(node) == value.shape
            assert node.meta["val"].dtype == value.dtype
            assert bytes_of(node) == value.numel() * value.element_size()


def test_sizes_that_do_not_fit_are_one_line_and_torch_logs_nothing(caplog):
    model = from_module(nn.AvgPool1d(4), torch.randn(2, 1, 8), dynamic={"input": {2: "length"}})
    with pytest.raises(PacklightError, match=r"does not fit its inputs \(input \[2, 1, 1\]\)") as error:
        propagate(model, length=1)
    assert "\n" not in str(error.value)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
