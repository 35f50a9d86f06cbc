"""Layers keep the names that their users gave them."""

from __future__ import annotations

import torch
from captures import captured
from torch import nn

from packlight.sources import from_module


def test_a_module_that_computes_one_thing_lends_its_name():
    assert list(captured("mlp").model.layers()) == ["0", "1", "2"]


def test_operators_in_a_forward_get_the_modules_name_and_their_own():
    assert [n for n in captured("vit").model.layers() if n.startswith("blocks.1.add")] == [
        "blocks.1.add",
        "blocks.1.add_1",
    ]


def test_a_module_used_twice_numbers_its_uses():
    names = list(captured("residual").model.layers())
    assert [n for n in names if n.startswith("body.0")] == ["body.0.conv2d", "body.0.conv2d_1"]


def test_operators_of_the_network_itself_have_bare_names():
    assert list(captured("residual").model.layers())[-2:] == ["mean", "head"]


def test_a_recurrent_layer_owns_its_states():
    assert [n for n in captured("lstm").model.layers() if n.startswith("lstm")] == \
        ["lstm.zeros", "lstm.zeros_1", "lstm", "lstm.getitem"]  # fmt: skip


def test_a_name_that_is_taken_gets_a_number():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add, self.relu_1 = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.relu_1((self.add(x) + 1).relu().neg().relu())

    names = list(from_module(Net(), torch.ones(2, 3)).layers())
    assert len(set(names)) == len(names) == 6
    assert names[0] == "add"
