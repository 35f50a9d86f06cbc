"""ExecuTorch's traps."""

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.measure.parity import check
from packlight.testing.examples import inputs_of, random_task

pytest.importorskip("executorch", reason="pip install 'packlight[executorch]'")
pytestmark = pytest.mark.slow  # its converter takes ten seconds a file


class AlongALine(nn.Module):
    """Convolutions over one axis, in float here; what they give is added to in int8."""

    def __init__(self, **how):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.line = nn.Conv1d(8, 8, 3, **how)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x)).transpose(1, 2)
        made = self.line(x)
        return self.head((x[..., : made.shape[-1]] + made).mean(2))


@pytest.mark.parametrize(
    "how",
    [{"padding": 1}, {"groups": 8, "padding": 2, "dilation": 2}, {"bias": False}],
    ids=["plain", "depthwise_dilated", "without_bias"],
)
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
def test_convolutions_over_one_axis(how, quantized, tmp_path):
    torch.manual_seed(0)
    model = pl.load(AlongALine(**how), torch.randn(2, 12, 6))
    if quantized:
        model = pl.quantize(model, random_task(model), target="executorch")
    file = pl.export(model, tmp_path / "net.pte", target="executorch")
    assert check(model, file, inputs_of(model, 4)).error < 1e-5
