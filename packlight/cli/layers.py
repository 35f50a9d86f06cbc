"""`packlight compare-layers`: where a quantized network departs from the float one."""

from __future__ import annotations

from typing import Annotated

import typer

from packlight.cli import progress, show
from packlight.cli.options import JsonOption, ModelArgument, TaskOption


def compare_layers(
    model: ModelArgument,
    quantized: Annotated[str, typer.Argument(help="The quantized .plm file that was made of it.")],
    task: TaskOption,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples to look at.")] = 64,
    most: Annotated[int, typer.Option(min=1, help="Layers to show, worst first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Signal-to-noise ratio of every quantized layer, the worst first, with the likely cause and what to try."""
    from packlight.api import compare_layers as compare
    from packlight.api import load

    with progress.stages(as_json):
        found = compare(load(model), load(quantized), task, samples=samples)
    if as_json:
        show.as_json({"layers": [e.as_json() for e in found]})
        return
    show.line("Signal-to-noise ratio of what each layer gives, dB: 20 is an error of a tenth, 40 of a hundredth.")
    show.line("Alone: the layer reads float values. Whole: in the quantized network, with all that came before.")
    show.line()
    show.table(
        ["layer", "alone", "its weights", "what it reads", "clipped", "whole", "likely cause", "try"],
        [
            [
                e.layer, _dB(e.own), _dB(e.weights), _dB(e.inputs), f"{100 * e.clipped:.2f} %", _dB(e.whole),
                e.cause or "–", e.remedy or "–",
            ]
            for e in found[:most]
        ],
    )  # fmt: skip
    if len(found) > most:
        show.line(f"and {len(found) - most} layers that do better")


def _dB(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
