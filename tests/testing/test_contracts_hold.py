"""packlight's own passes and sources meet the contracts that plug-ins are held to (targets: tests/targets)."""

import torch

from packlight.passes.codebooks import Codebooks, share_weights
from packlight.passes.fold import fold
from packlight.passes.quantize import Quantization, quantize
from packlight.sources import from_module
from packlight.targets import get
from packlight.testing import PassContract, SourceContract
from packlight.testing.examples import Convolutions, random_task


class TestFold(PassContract):
    def apply(self, model):
        return fold(model)


class TestQuantize(PassContract):
    largest_change = 0.1  # eight bits, on networks that were never trained

    def apply(self, model):
        return quantize(model, random_task(model), get("onnxruntime").numerics, Quantization())


class TestShareWeights(PassContract):
    largest_change = 0.1  # sixty-four values a layer

    def apply(self, model):
        return share_weights(model, Codebooks(bits=6, init="random", seed=1))


class TestFromModule(SourceContract):
    def load(self):
        return from_module(self.network(), torch.randn(2, 3, 8, 8))

    def original(self, *inputs):
        with torch.no_grad():
            return (self.network()(*map(torch.from_numpy, inputs)).numpy(),)

    def network(self):
        if not hasattr(TestFromModule, "_network"):
            torch.manual_seed(0)
            TestFromModule._network = Convolutions().eval()
        return TestFromModule._network
