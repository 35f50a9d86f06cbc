"""Each test of a contract fails for somebody who breaks it: a contract that cannot fail promises nothing."""

import subprocess
import sys
import unittest

import pytest
import torch
from broken_targets import ForgetsTheBias, KeepsState, NotThere

from packlight.model import Step
from packlight.passes.fold import fold
from packlight.testing import PassContract, SourceContract, TargetContract
from packlight.testing.examples import models, one_percent_off


def first_parameter(model):
    return next(iter(model.parameters()))


def nudge(model, by):
    with torch.no_grad():
        first_parameter(model).add_(by)
    return model


def forgets_a_step(model):
    return nudge(model.copy(), 1e-7)


def rewrites_history(model):
    made = fold(model)
    made.lineage = (Step("mine"),)
    return made


def shares(model):
    return model.copy(share_tensors=True).with_step(Step("mine"))


def renames_an_output(model):
    from dataclasses import replace

    made = fold(model)
    made.outputs = (replace(made.outputs[0], name="other"), *made.outputs[1:])
    return made


def renames_layers(model):
    made = fold(model)
    for node in made.nodes:
        if "layer" in node.meta:
            node.meta["layer"] = "layer"
    return made


def step(model):
    return model.copy().with_step(Step("mine"))


BROKEN_PASSES = {
    "the_input_is_untouched": lambda model: nudge(model, 0.1).copy().with_step(Step("mine")),
    "no_tensor_is_shared_with_the_input": shares,
    "the_same_seed_gives_the_same_bytes": lambda model: nudge(step(model), float(torch.rand(()))),
    "the_lineage_records_it": rewrites_history,
    "what_changed_is_recorded": forgets_a_step,
    "inputs_and_outputs_stay_what_they_are": renames_an_output,
    "outputs_stay_close_to_the_originals": lambda model: one_percent_off(step(model)),
    "layer_names_stay_the_users": renames_layers,
}


@pytest.mark.parametrize(("promise", "broken"), BROKEN_PASSES.items(), ids=BROKEN_PASSES)
def test_a_pass_that_breaks_a_promise_is_caught(promise, broken):
    class Contract(PassContract):
        def apply(self, model):
            return broken(model)

    with pytest.raises(AssertionError):
        getattr(Contract(), f"test_{promise}")()


class Loaded(SourceContract):
    """A source whose original is right; subclasses are wrong in one way each."""

    def load(self):
        return models()[0]

    def original(self, *inputs):
        return tuple(o.detach().numpy() for o in models()[0].flat(*map(torch.from_numpy, inputs)))


class OnePercentOff(Loaded):
    def load(self):
        return one_percent_off(models()[0])


class AnythingGoes(Loaded):
    largest_error = 1.0


class Restless(Loaded):
    def load(self):
        return nudge(models()[0], float(torch.rand(())) * 1e-7)


class InTraining(Loaded):
    def load(self):
        return models()[0].train()


class Sharing(Loaded):
    network = None

    def load(self):
        Sharing.network = models()[0]
        return Sharing.network

    def original(self, *inputs):
        return tuple(o.detach().numpy() for o in Sharing.network.flat(*map(torch.from_numpy, inputs)))


BROKEN_SOURCES = {
    "outputs_are_the_originals_at_every_batch_size": OnePercentOff,
    "a_scale_that_is_wrong_by_one_percent_would_be_noticed": AnythingGoes,
    "loading_again_gives_the_same_bytes": Restless,
    "the_model_comes_in_eval_mode_with_names_and_a_lineage": InTraining,
    "training_the_model_leaves_the_original_alone": Sharing,
}


@pytest.mark.parametrize(("promise", "broken"), BROKEN_SOURCES.items(), ids=BROKEN_SOURCES)
def test_a_source_that_breaks_a_promise_is_caught(promise, broken):
    getattr(Loaded(), f"test_{promise}")()
    with pytest.raises(AssertionError):
        getattr(broken(), f"test_{promise}")()


class Wrong(TargetContract):
    def target(self):
        return ForgetsTheBias()

    def models(self):
        return models()[:1]


class Stateful(TargetContract):
    def target(self):
        return KeepsState(3)


class Missing(TargetContract):
    def target(self):
        return NotThere()


@pytest.mark.slow
def test_a_target_that_computes_something_else_is_caught():
    Wrong.setup_class()
    try:
        with pytest.raises(AssertionError, match=r"error 1e-05 is allowed"):
            Wrong().test_the_file_computes_what_the_model_computes()
    finally:
        Wrong.teardown_class()


def test_a_target_with_state_is_caught():
    with pytest.raises((AssertionError, TypeError)):
        Stateful().test_a_child_process_can_make_it()


def test_a_runtime_that_is_not_installed_is_a_skip_that_names_its_install_line():
    Missing.setup_class()
    try:
        with pytest.raises(unittest.SkipTest, match="pip install notthere"):
            Missing().test_the_file_computes_what_the_model_computes()
    finally:
        Missing.teardown_class()


def test_importing_the_contracts_imports_neither_torch_nor_pytest():
    code = "import sys, packlight.testing; print(*sorted({'torch', 'pytest', 'numpy', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_making_the_examples_leaves_the_users_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    from packlight.testing import examples

    examples._made.cache_clear()
    examples.models()
    assert torch.equal(torch.rand(3), expected)
