"""What is changed for ncnn computes the same."""

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.model.operators import packet
from packlight.targets.ncnn_graph import fit


class Masked(nn.Module):
    def forward(self, x, mask):
        bias = ((1 - mask.to(x.dtype)) * -1e4)[:, None, None, :]
        q = x.unflatten(2, (2, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, 2 * q, q + 1, attn_mask=bias)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


MASK = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]])
CASES = {
    "attention with one row of mask": (Masked(), (torch.randn(2, 5, 8), MASK), "scaled_dot_product_attention", [1]),
    "lstm": (Recurrent().eval(), (torch.randn(2, 5, 4),), "lstm", []),
}


@pytest.mark.parametrize(("network", "inputs", "gone", "floats"), CASES.values(), ids=CASES)
def test_another_form_of_the_same(network, inputs, gone, floats):
    model = pl.load(network, inputs)
    assert gone in {packet(n) for n in model.nodes}
    fitted = model.copy().eval()
    assert fit(fitted) == floats
    assert not {gone, "to"} & {packet(n) for n in fitted.nodes}
    given = [x.float() if i in floats else x for i, x in enumerate(inputs)]
    for got, wanted in zip(fitted.flat(*given), model.flat(*inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)  # sums in another order


def test_an_input_that_is_also_read_as_integers_stays():
    class Both(nn.Module):
        def forward(self, x):
            return x.to(torch.float32) * 0.5, x + 1

    model = pl.load(Both(), torch.arange(4).reshape(2, 2))
    assert fit(model.copy()) == []


def test_a_mask_with_a_row_for_every_query_stays():
    class Whole(nn.Module):
        def forward(self, q, mask):
            return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    model = pl.load(Whole(), (torch.randn(2, 2, 5, 4), torch.randn(2, 1, 5, 5)))
    fit(fitted := model.copy())
    assert "scaled_dot_product_attention" in {packet(n) for n in fitted.nodes}
