"""The contract of sources: the Model computes what the original framework computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packlight.model import Model

_BATCHES = (1, 2, 5)


class SourceContract(ABC):
    """Subclass in your tests; pytest finds the rest.

    largest_error: root mean square of the difference over that of the original's outputs; the order of float32
    additions unless the original computes otherwise.
    """

    largest_error: float = 1e-5

    @abstractmethod
    def load(self) -> Model:
        """The network as a Model."""

    @abstractmethod
    def original(self, *inputs: Any) -> Sequence[Any]:
        """Outputs of the original network in its framework, flat, in order: numpy arrays in and out."""

    def inputs(self, model: Model, batch: int) -> tuple[Any, ...]:
        """Numpy inputs of this batch size; random unless overridden."""
        from packlight.testing.examples import inputs_of

        return inputs_of(model, batch)

    def test_outputs_are_the_originals_at_every_batch_size(self) -> None:
        model = self.load()
        for batch in _BATCHES:
            error = self._error(model, batch)
            assert error <= self.largest_error, f"batch {batch}: off by {error:.2g}, {self.largest_error} is allowed"

    def test_a_scale_that_is_wrong_by_one_percent_would_be_noticed(self) -> None:
        from packlight.testing.examples import one_percent_off

        error = self._error(one_percent_off(self.load()), 5)
        assert error > self.largest_error, "the limit is so wide that a wrong scale passes"

    def test_loading_again_gives_the_same_bytes(self) -> None:
        from packlight.testing.examples import content

        assert content(self.load()) == content(self.load()), "the same network was loaded as two different Models"

    def test_the_model_saves_and_loads(self) -> None:
        import tempfile
        from pathlib import Path

        import torch

        from packlight.model import Model

        model = self.load()
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            again = Model.load(model.save(Path(folder) / "model.plm"))
        inputs = model.example_inputs()
        for got, wanted in zip(again.flat(*inputs), model.flat(*inputs), strict=True):
            assert torch.equal(got, wanted), "the Model computes something else after loading"

    def test_the_model_comes_in_eval_mode_with_names_and_a_lineage(self) -> None:
        model = self.load()
        names = [s.name for s in model.inputs]
        assert not model.training, "a loaded Model is in eval mode"
        assert names and len(set(names)) == len(names), f"inputs need names of their own, got {names}"
        assert model.lineage, "the lineage starts with how the Model was loaded"
        assert model.layers(), "layers need the names by which the user knows them"

    def test_training_the_model_leaves_the_original_alone(self) -> None:
        import numpy as np
        import torch

        model = self.load()
        inputs = self.inputs(model, 2)
        before = [np.array(x) for x in self.original(*inputs)]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        for got, wanted in zip(self.original(*inputs), before, strict=True):
            assert np.array_equal(got, wanted), "the Model shares its tensors with the original"

    def _error(self, model: Model, batch: int) -> float:
        from packlight.measure.quality import torch_runner
        from packlight.testing.examples import worst

        inputs = self.inputs(model, batch)
        return worst(torch_runner(model)(*inputs), self.original(*inputs)).error
