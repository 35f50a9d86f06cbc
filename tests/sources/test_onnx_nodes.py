"""The onnx package's node tests: what passes, what is refused and why, as the committed list says.

`python tests/sources/onnx_node_tests.py` writes the list anew.
"""

from __future__ import annotations

import json

import pytest
from onnx_node_tests import LISTED, cases, problem

LIST = json.loads(LISTED.read_text())
QUICK = "test_add test_conv_with_strides_padding test_gemm_all_attributes test_lstm_with_initial_bias".split()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_node_test_does_as_listed():
    wrong = []
    for name, case in cases().items():
        found = problem(case, tuple(LIST["bound"].get(name, ())))
        if bool(found) != (name in LIST["refused"]):
            wrong.append(f"{name}: {found or 'passes, though it is listed as refused'}")
    assert not wrong, "\n".join(wrong)


def test_the_list_names_tests_that_there_are_and_is_short():
    names = cases().keys()
    assert (LIST["bound"].keys() | LIST["refused"].keys()) <= names
    assert len(LIST["refused"]) <= 0.03 * len(names)
    assert all(LIST["refused"].values()), "every refusal has its reason"


@pytest.mark.parametrize("name", QUICK)
def test_a_few_node_tests_pass(name):
    assert problem(cases()[name], tuple(LIST["bound"].get(name, ()))) == ""
