"""The contract of passes: a pass gives a changed copy, the same one each time, and says that it did."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packlight.model import Model


class PassContract(ABC):
    """Subclass in your tests; pytest finds the rest.

    largest_change: of the outputs, as root mean square over that of the original's, >= 0; rounding for a pass that
    keeps what the network computes, more for one that approximates it, None for one that is not held to it.
    """

    largest_change: float | None = 1e-5

    @abstractmethod
    def apply(self, model: Model) -> Model:
        """Apply the pass, with a fixed seed where it has one."""

    def models(self) -> Sequence[Model]:
        """Networks to apply the pass to, at least one of which it changes; two small ones unless overridden."""
        from packlight.testing.examples import models

        return models()

    def test_the_input_is_untouched(self) -> None:
        from packlight.testing.examples import content

        for model in self.models():
            for mode in (model, model.copy().train()):
                before = content(mode)
                made = self.apply(mode)
                assert content(mode) == before, f"the pass changed the Model {mode.name} that it was given"
                assert made is not mode, "a pass returns a Model of its own, also where there is nothing to do"

    def test_no_tensor_is_shared_with_the_input(self) -> None:
        for model in self.models():
            made = self.apply(model)
            mine = {t.data_ptr(): n for n, t in model.named_tensors().items() if t.numel()}
            shared = [n for n, t in made.named_tensors().items() if t.numel() and t.data_ptr() in mine]
            assert not shared, f"training the result would change the input: they share {shared}"

    def test_the_same_seed_gives_the_same_bytes(self) -> None:
        from packlight.testing.examples import content

        for model in self.models():
            assert content(self.apply(model)) == content(self.apply(model)), f"{model.name} came out differently"

    def test_the_lineage_records_it(self) -> None:
        longer = []
        for model in self.models():
            before, after = model.lineage, self.apply(model).lineage
            assert after[: len(before)] == before, "a pass keeps the steps before it"
            longer.append(len(after) > len(before))
            for step in after:
                json.dumps(dict(step.options))
        assert any(longer), "no step was recorded on any network"

    def test_what_changed_is_recorded(self) -> None:
        from packlight.testing.examples import content

        for model in self.models():
            made = self.apply(model)
            if len(made.lineage) == len(model.lineage):
                assert content(made) == content(model), f"{model.name} was changed without a step in its lineage"

    def test_the_result_saves_and_loads(self) -> None:
        import tempfile
        from pathlib import Path

        import torch

        from packlight.model import Model

        for model in self.models():
            made = self.apply(model)
            with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
                again = Model.load(made.save(Path(folder) / "model.plm"))
            inputs = made.example_inputs(seed=3)
            for got, wanted in zip(again.flat(*inputs), made.flat(*inputs), strict=True):
                assert torch.equal(got, wanted), f"{model.name} computes something else after loading"
            assert again.lineage == made.lineage, "the lineage changed in the file"

    def test_inputs_and_outputs_stay_what_they_are(self) -> None:
        for model in self.models():
            made = self.apply(model)
            assert made.inputs == model.inputs, f"{made.inputs} were {model.inputs}"
            assert made.outputs == model.outputs, f"{made.outputs} were {model.outputs}"
            assert made.structure == model.structure, "outputs nest differently"

    def test_other_batch_sizes_still_work(self) -> None:
        for model in self.models():
            made = self.apply(model)
            for batch in (1, 3) if "batch" in model.dims else ():
                sizes = {**model.dims, "batch": batch}
                for spec, got in zip(made.outputs, made.flat(*made.example_inputs(batch=batch)), strict=True):
                    assert tuple(got.shape) == spec.sizes(sizes), f"{spec.name} has shape {tuple(got.shape)}"

    def test_outputs_stay_close_to_the_originals(self) -> None:
        from packlight.measure.quality import torch_runner
        from packlight.testing.examples import inputs_of, worst

        allowed = float("inf") if self.largest_change is None else self.largest_change
        for model in self.models():
            inputs = inputs_of(model, 16)
            off = worst(torch_runner(self.apply(model))(*inputs), torch_runner(model)(*inputs)).error
            assert off <= allowed, f"{model.name} is off by {off:.2g}, {allowed} is allowed"

    def test_layer_names_stay_the_users(self) -> None:
        for model in self.models():
            names = [made.meta["layer"] for made in self.apply(model).nodes if "layer" in made.meta]
            assert len(set(names)) == len(names), "two layers have the same name"
            kept = set(names) & set(model.layers())
            assert kept, "no layer kept the name by which the user knows it"
