"""In CI every runtime that setup installs is there: a skipped runtime would be a green test of nothing."""

import os

import pytest

from packlight.targets import get

EXPECTED = ("onnxruntime", "openvino", "executorch", "litert", "ncnn", "torch", "aotinductor", "mnn", "coreml")


@pytest.mark.skipif(not os.environ.get("CI"), reason="only CI insists on every runtime")
@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_installed(name):
    get(name).require()
