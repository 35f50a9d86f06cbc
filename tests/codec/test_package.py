"""A Model comes back from a `.plt` file with every bit of every tensor, whatever numbers it holds."""

import numpy as np
import pytest
import torch

import packlight as pl
from packlight.codec import Coder, load_packed, read_packed, save_packed
from packlight.codec.container import read, write
from packlight.codec.forms import TYPES, Kind
from packlight.codec.streams import Entry
from packlight.model.integers import freeze
from packlight.networks import lenet5, resnet8, transformer_classifier
from packlight.testing.examples import random_task

CODERS = [pytest.param(c, id=c.name.lower()) for c in Coder]


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def assert_same(mine, theirs):
    assert mine.named_tensors().keys() == theirs.named_tensors().keys()
    for name, tensor in mine.named_tensors().items():
        other = theirs.named_tensors()[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert tensor.numel() == 0 or bits(tensor).equal(bits(other)), name


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return pl.load(resnet8().eval(), torch.randn(2, 1, 28, 28), name="resnet8")


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("form", ["float", "int8", "table"])
def test_every_form_of_a_network_comes_back_with_every_bit(network, form, coder, tmp_path):
    model = network
    if form == "int8":
        model = freeze(pl.quantize(network, random_task(network), samples=8))
    elif form == "table":
        model = pl.share_weights(network, bits=3)
    save_packed(model, tmp_path / "net.plt", coder)
    again = load_packed(tmp_path / "net.plt")
    assert_same(model, again)
    inputs = model.example_inputs(3)
    assert torch.equal(model(*inputs), again(*inputs))


def test_a_text_network_comes_back_too(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 8))
    module = transformer_classifier(classes=3, tokens=8, width=16, layers=1, heads=2)
    model = pl.load(module.eval(), (ids, torch.ones_like(ids)))
    save_packed(model, tmp_path / "net.plt")
    assert_same(model, load_packed(tmp_path / "net.plt"))


TENSORS = {
    "nan and infinities": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, 3e38]),
    "minus zero among steps": torch.tensor([-0.0, 0.5, 1.0, 1.5] * 50),
    "subnormal steps": torch.arange(40) * torch.tensor(1e-44),
    "empty": torch.zeros(0, 3),
    "one": torch.tensor(3.25),
    "all zero": torch.zeros(7, 11),
    "half sparse": torch.randn(64, 64).relu(),
    "largest and least int64": torch.tensor([2**63 - 1, -(2**63), 0]),
    "wide int64": torch.tensor([2**40, -(2**41), 7]),
    "positions": torch.arange(512)[None],
    "constant": torch.full((9,), -4, dtype=torch.int32),
    "uint8": torch.randint(0, 256, (31, 7), dtype=torch.uint8),
    "booleans": torch.rand(100) > 0.3,
    "bfloat16": torch.randn(50, 20).bfloat16(),
    "float16": torch.randn(50, 20).half(),
    "float64": torch.randn(33).double(),
    "fp8": torch.randn(300).to(torch.float8_e4m3fn),
    "bfloat16 in float32": torch.randn(5000).bfloat16().float(),
}  # fmt: skip


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_every_kind_of_tensor_comes_back_with_every_bit(tensor, coder, tmp_path):
    dtype = str(tensor.dtype).removeprefix("torch.")
    spelt = bits(tensor).numpy().view(TYPES[dtype].bits) if tensor.numel() else np.zeros(0, TYPES[dtype].bits)
    write(tmp_path / "t.plt", "{}", [(Entry("t", dtype, tuple(tensor.shape)), lambda: spelt)], coder)
    _, (part,) = read(tmp_path / "t.plt")
    assert part.bits.dtype == spelt.dtype
    assert np.array_equal(part.bits, spelt)


def test_multiples_of_a_step_take_their_entropy_and_a_few_bytes(tmp_path):
    levels = np.random.default_rng(0).geometric(0.5, (256, 256)) * np.random.default_rng(1).choice([-1, 1], (256, 256))
    model = pl.load(torch.nn.Linear(256, 256, bias=False), torch.randn(2, 256))
    model.set_tensor("weight", torch.from_numpy(levels).float() * 0.01234, trainable=True)
    save_packed(model, tmp_path / "net.plt")
    _, header, (part,) = read_packed(tmp_path / "net.plt")
    entropy_bits = 3 * levels.size  # 2 of the geometric distribution, 1 of the sign
    assert part.kind == Kind.STEPS
    assert entropy_bits < 8 * header.streams[0].size < 1.01 * entropy_bits
    assert 8 * header.streams[0].size < 1.002 * part.ideal + 64


def test_a_lenet_header_takes_few_bytes(tmp_path):
    model = pl.load(lenet5().eval(), torch.randn(2, 1, 28, 28), name="lenet5")
    save_packed(model, tmp_path / "net.plt")
    header = read_packed(tmp_path / "net.plt")[1]
    assert header.text_bytes < 300
    assert header.fixed_bytes < 40
