"""In-place operators: followed through views rightly, or refused, and never silently wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captures import flat
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.sources import from_module

Body = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    def __init__(self, body: Body):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("state", torch.ones(4))
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def whole_after_slice(net, x):
    y = net.linear(x)
    y[:, 1:3].mul_(2)
    return y


def view_taken_before_the_write(net, x):
    y = net.linear(x)
    column = y[:, 0]
    y.add_(1)
    return column * 2


def value_computed_before_the_write(net, x):
    y = net.linear(x)
    before = y * 3
    y.add_(1)
    return before, y


def two_views_of_one_memory(net, x):
    y = net.linear(x)
    left, flat_ = y[:, :2], y.view(-1)
    flat_.mul_(-1)
    left.add_(5)
    return y, flat_, left


def view_of_a_view(net, x):
    y = net.linear(x)
    y.view(-1, 2, 2).transpose(1, 2)[:, 0].relu_()
    return y


def permuted(net, x):
    y = net.linear(x).view(-1, 2, 2)
    y.permute(2, 0, 1)[0] = 7.0
    return y


def moved_axis(net, x):
    y = net.linear(x)
    y.movedim(0, 1)[1].zero_()
    return y


def with_step(net, x):
    y = net.linear(x)
    y[:, ::2] = x[:, 1::2]
    return y


def diagonal(net, x):
    y = net.linear.weight @ net.linear.weight.T + x[:1].sum()
    y.diagonal().fill_(0)
    return y


def broadcast_copy(net, x):
    y = net.linear(x)
    y[:, 1:] = x[:, :1]
    return y


def integers_stay_integers(net, x):
    y = (x * 10).int()
    y.mul_(3).add_(True)
    return y


def half_stays_half(net, x):
    y = x.half()
    y.add_(x)
    y[:, 0] = x[:, 1]
    return y


def comparison_keeps_the_dtype(net, x):
    y = net.linear(x)
    y.gt_(0.0)
    return y


def squeezed(net, x):
    y = net.linear(x)[:, None]
    y.squeeze_(1)
    y.add_(1)
    return y * 2


def squeezed_view(net, x):
    y = net.linear(x)
    z = y.unsqueeze(1)
    z.squeeze_(1).add_(1)
    return y, z


def masks(net, x):
    y = net.linear(x)
    y[y > 0.5] = 0.0
    y[:, [0, 2]] = -1.0
    y.masked_fill_(x > 1, 9.0).clamp_(-2, 2)
    return y


def chained(net, x):
    return F.relu_(net.linear(x).add_(1).mul_(2))


def dropout_in_between(net, x):
    y = net.drop(net.linear(x))
    return y.relu_()


def the_input(net, x):
    x.add_(1)
    return net.linear(x)


def made_inside_no_grad(net, x):
    with torch.no_grad():
        mask = torch.zeros(4)
        mask[1] = 1
    return net.linear(x) * mask


def unused_counter(net, x):
    net.state.add_(1)
    return net.linear(x)


def parts(net, x):
    y = net.linear(x)
    _, b, _, d = y.unbind(1)
    d.copy_(b)
    left, right = y.chunk(2, 1)
    right.mul_(2)
    first, _ = y.split([1, 3], 1)
    first.zero_()
    return y, left


RIGHT = [whole_after_slice, view_taken_before_the_write, value_computed_before_the_write, two_views_of_one_memory,
         view_of_a_view, permuted, moved_axis, with_step, diagonal, broadcast_copy, integers_stay_integers,
         half_stays_half, comparison_keeps_the_dtype, squeezed, squeezed_view, masks, chained, dropout_in_between,
         the_input, made_inside_no_grad, unused_counter]  # fmt: skip
CONSTANT = (integers_stay_integers, half_stays_half, comparison_keeps_the_dtype)  # no gradient reaches the weights


@cache
def captured(body: Body) -> tuple[nn.Module, Model]:
    net = Net(body).eval()
    return net, from_module(net, torch.randn(3, 4))


def outputs(network: Any, x: Tensor) -> list[Tensor]:
    return flat(network(x.clone()))


@pytest.mark.parametrize("body", [*RIGHT, parts], ids=lambda b: b.__name__)
def test_writes_give_what_they_give_in_torch(body):
    net, model = captured(body)
    with torch.no_grad():
        for x in (torch.randn(1, 4), torch.randn(5, 4) * 3):
            for got, wanted in zip(outputs(model, x), outputs(net, x), strict=True):
                torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)  # the same kernels on the same values


@pytest.mark.parametrize("body", [b for b in RIGHT if b not in CONSTANT], ids=lambda b: b.__name__)
def test_writes_give_the_gradients_that_they_give_in_torch(body):
    net, model = copy.deepcopy(captured(body)[0]), captured(body)[1].copy()
    x = torch.randn(3, 4)
    for network in (net, model):
        sum((o * torch.arange(o.numel()).reshape(o.shape)).sum() for o in outputs(network, x)).backward()
    mine = {n: p.grad for n, p in model.named_parameters()}
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(mine.get(name), parameter.grad, rtol=1e-5, atol=1e-5)


def test_a_caller_keeps_its_input():
    x = torch.randn(3, 4)
    kept = x.clone()
    from_module(Net(the_input), x)(x)
    assert x.equal(kept)


def test_an_unused_counter_is_reported():
    model = from_module(Net(unused_counter), torch.randn(3, 4))
    assert model.notes == ("tensor 'state', which the network updates and never reads, is left out",)
    assert "state" not in model.named_tensors()


def through_dropout(net, x):
    y = net.linear(x)
    net.drop(y).add_(1)
    return y


def dropout_of_what_is_written(net, x):
    y = net.linear(x)
    z = net.drop(y)
    y.add_(1)
    return z


def through_detach(net, x):
    y = net.linear(x)
    y.detach().mul_(2)
    return y


def counter_that_is_read(net, x):
    net.state.add_(1)
    return net.linear(x) + net.state


def reassigned_state(net, x):
    net.state = net.state * 2
    return net.linear(x) + net.state


def into_out(net, x):
    y = torch.empty(3, 4)
    torch.add(x, 1, out=y)
    return y


def random_fill(net, x):
    return net.linear(x) + torch.empty_like(x).normal_()


def from_outside_no_grad(net, x):
    y = net.linear(x)
    with torch.no_grad():
        y.clamp_(0)
    return y


def shared_grid(net, x):
    a = torch.arange(4.0) + x[0]
    grid = torch.meshgrid(a, a, indexing="ij")[0]
    a.add_(1)
    return grid


def dynamic_parts(net, x):
    y = net.linear(x)
    y.split(2, 0)[0].mul_(2)
    return y


REFUSED = {
    through_dropout: "writes through dropout",
    dropout_of_what_is_written: "input of a dropout is written",
    through_detach: "writes through detach",
    counter_that_is_read: "changes its own tensor 'state'",
    reassigned_state: "changes its own tensor 'state'",
    into_out: "writes into other tensors than its first",
    random_fill: "normal_ has no functional form",
    from_outside_no_grad: "outside its torch.no_grad",
    shared_grid: "memory that meshgrid hands out",
    dynamic_parts: "cuts a dynamic dimension",
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda b: b.__name__)
def test_a_write_that_cannot_be_followed_is_refused_in_one_line(body):
    with pytest.raises(PacklightError, match=REFUSED[body]) as error:
        from_module(Net(body).eval(), torch.randn(4, 4))
    assert "\n" not in str(error.value)


def test_the_refusal_names_the_module_that_writes():
    net = nn.Sequential(nn.Linear(4, 4), Net(through_dropout))
    with pytest.raises(PacklightError, match="add_ in 1 writes"):
        from_module(net, torch.randn(3, 4))
