"""`packlight compare-layers`: where a quantized network departs from the float one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packlight.cli import outputs, progress, show
from packlight.cli.options import JsonOption, ModelArgument, TaskOption
from packlight.errors import PacklightError

if TYPE_CHECKING:
    from packlight.passes.quantize import Mended


def compare_layers(
    model: ModelArgument,
    quantized: Annotated[str, typer.Argument(help="The quantized .plm file that was made of it.")],
    task: TaskOption,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples to look at.")] = 64,
    most: Annotated[int, typer.Option(min=1, help="Layers to show, worst first.")] = 20,
    target: Annotated[str, typer.Option(help="Also run the file there, layer by layer.")] = "",
    fix: Annotated[bool, typer.Option("--fix", help="Mend the layers that do harm, and write the result.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of mending at most.")] = 5,
    out: Annotated[Path | None, typer.Option(help="The .plm file to write with --fix.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Signal-to-noise ratio of every quantized layer, the worst first, with the likely cause and what to try."""
    from packlight.api.compressing import compare_layers as compare
    from packlight.api.compressing import mend_layers
    from packlight.api.opening import load

    if fix != (out is not None):
        raise PacklightError("--fix needs --out FILE.plm, and --out needs --fix")
    if out is not None:
        outputs.check_file(out)
    with progress.stages(as_json):
        whole, small = load(model), load(quantized)
        mended = mend_layers(whole, small, task, samples=samples, rounds=rounds) if fix else None
        found = compare(whole, mended.model if mended else small, task, samples=samples, target=target or None)
    if mended is not None and out is not None:
        mended.model.save(out)
    if as_json:
        answer: dict[str, Any] = {"layers": [e.as_json() for e in found]}
        if mended is not None:
            answer |= {"changes": list(mended.changes), "before_dB": mended.before, "after_dB": mended.after,
                       "sound": mended.sound}  # fmt: skip
        show.as_json(answer)
        return
    if mended is not None:
        _show(mended, str(out))
    show.line("Signal-to-noise ratio of what each layer gives, dB: 20 is an error of a tenth, 40 of a hundredth.")
    show.line("Alone: the layer reads float values. Whole: in the quantized network, with all that came before.")
    show.line("File: the exported file on its runtime against the quantized network.")
    show.line()
    show.table(
        ["layer", "alone", "its weights", "what it reads", "whole", "file", "likely cause", "try"],
        [
            [
                e.layer, _dB(e.own), _dB(e.weights), _dB(e.inputs), _dB(e.whole),
                _dB(e.file),
                e.cause or "–", e.remedy or "–",
            ]
            for e in found[:most]
        ],
    )  # fmt: skip
    if len(found) > most:
        show.line(f"and {len(found) - most} layers that do better")


def _show(mended: Mended, out: str) -> None:
    for change in mended.changes:
        show.line(f"changed: {change}")
    if not mended.changes:
        show.line("nothing was changed: " + ("every layer is sound" if mended.sound else "no remedy helped"))
    left = "" if mended.sound else "; some layers still do harm"
    show.line(f"outputs: {mended.before:.1f} dB before, {mended.after:.1f} dB after{left}")
    show.line(f"wrote {out}")
    show.line()


def _dB(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
