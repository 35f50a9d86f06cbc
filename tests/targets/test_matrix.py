"""Kinds of networks × runtimes × {float, the best low form}: every file is right, or is refused with a reason.

Networks are small and their weights random, so all that counts is whether a file computes what its Model computes;
`python -m benchmarks study target_matrix` has the trained ones with accuracy and speed. A refused cell stands in
REFUSED with words of its reason: one that starts to work, or is refused for another reason, fails here.
"""

import sys

import pytest
import torch

import packlight as pl
from packlight.measure.parity import check
from packlight.networks import (
    conformer,
    ds_cnn,
    lstm_classifier,
    mobilenet_v2_small,
    resnet8,
    transformer_classifier,
    unet,
)
from packlight.targets import get, names
from packlight.testing.examples import inputs_of, random_task

SOUND = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
IDS = torch.randint(0, 1000, (2, 32), generator=torch.Generator().manual_seed(0))
WORDS = (IDS, torch.ones_like(IDS))
NETWORKS = {
    "resnet": (resnet8, {}, torch.randn(2, 1, 28, 28)),
    "mobilenet": (mobilenet_v2_small, {}, torch.randn(2, 1, 28, 28)),
    "ds_cnn": (ds_cnn, {"width": 16, "blocks": 2}, SOUND),
    "conformer": (conformer, {"samples": 4096, "width": 32, "blocks": 1, "heads": 2, "stem": 8}, SOUND),
    "text": (transformer_classifier, {"classes": 4, "tokens": 32, "width": 32, "layers": 1, "heads": 2}, WORDS),
    "lstm": (lstm_classifier, {"classes": 4, "embedding": 16, "width": 16}, WORDS),
    "unet": (unet, {"width": 4, "depth": 2}, torch.randn(2, 1, 32, 32)),
}
FAST = ("resnet", "text")
NO_FILE = ("coreml",)  # predicts on macOS alone
REFUSED = {  # (network, target, "float" or "low") → words of the reason
    # exact in float32, 0.8 % off with float16 weights
    ("conformer", "ncnn", "low"): "the file does not compute what the Model computes",
    # rounds only what a convolution or linear layer touches, so other sums stay finer than the Model's
    ("conformer", "mnn", "low"): "the file does not compute what the Model computes",
}


@pytest.fixture(scope="module")
def network(request):
    make, options, example = NETWORKS[request.param]
    torch.manual_seed(0)
    module = make(**options)
    module.train()
    with torch.no_grad():
        for _ in range(5):  # batch norms of random weights see some data
            module(*(example if isinstance(example, tuple) else (example,)))
    return request.param, pl.load(module.eval(), example, name=request.param)


def cells():
    for name in NETWORKS:
        for target in names():
            if target not in NO_FILE:
                marks = [] if name in FAST and target == "onnxruntime" else [pytest.mark.slow]
                if name not in FAST or (name, target) == ("text", "aotinductor"):  # half a minute of compiling a file
                    marks.append(pytest.mark.zoo)
                yield pytest.param(name, target, id=f"{name}-{target}", marks=marks)


@pytest.mark.parametrize("form", ["float", "low"])
@pytest.mark.parametrize(("network", "name"), cells(), indirect=["network"])
def test_every_cell_is_right_or_refused_with_its_reason(network, name, form, tmp_path):
    kind, model = network
    target = get(name)
    try:
        target.require()
    except pl.PacklightError as missing:
        pytest.skip(str(missing))
    refused = REFUSED.get((kind, name, form))
    stored = target.forms[0] if form == "float" else target.forms[-1]
    told = ""
    try:
        if form == "low" and target.numerics.groups:
            model, stored = pl.quantize(model, random_task(model), target=name), target.forms[0]
        file = pl.export(model, tmp_path / f"net{target.suffix}", target=name, form=stored)
        found = check(model, file, inputs_of(model, 4))
        told = found.reason  # `compare` and `compress` refuse such a file
    except pl.PacklightError as error:
        told = str(error)
    if told or refused:
        assert refused, f"refused, and REFUSED does not say so: {told}"
        assert refused in told, told or "it works now: take it out of REFUSED"
        return
    sys.stdout.write(f"\n{kind} {name} {form} ({stored}): error {found.error:.2g}, gain {found.gain:.5f}\n")
