"""`packlight sensitivity`: how much every layer matters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from packlight.cli import outputs, progress, show
from packlight.cli.options import JsonOption, ModelArgument, TargetOption, TaskOption
from packlight.report import format as fmt


def sensitivity(
    model: ModelArgument,
    task: TaskOption,
    measure: Annotated[
        str, typer.Option(help="removal, gradient, fisher, hessian, inputs, activations or quantization.")
    ] = "fisher",
    samples: Annotated[int, typer.Option(min=1, help="Of training data for a loss, else of calibration data.")] = 256,
    target: TargetOption = "onnxruntime",
    probes: Annotated[int, typer.Option(min=1, help="Random vectors of the Hessian's trace.")] = 16,
    seed: Annotated[int, typer.Option(help="Of those.")] = 0,
    cache: Annotated[bool, typer.Option(help="Keep the answer in the user's cache folder, and look there.")] = True,
    plot: Annotated[Path | None, typer.Option(help="An .html page to write: a bar a layer.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How much every layer matters, by one of seven measures; the largest first."""
    from packlight.api.compressing import sensitivity as measured
    from packlight.api.opening import load

    outputs.check_page(plot, "--plot")
    with progress.stages(as_json):
        network = load(model)
        found = measured(
            network, task, measure=measure, samples=samples, target=target, probes=probes, seed=seed, cache=cache
        )
    told = found.as_json()
    if plot is not None:
        from packlight.files import write_text
        from packlight.report.sensitivity import page

        write_text(plot, page(told, network.name))
    if as_json:
        show.as_json(told | ({"wrote": str(plot)} if plot else {}))
        return
    more = list(found.layers[0].detail)
    show.line(f"{found.measure}: {found.what}; {fmt.count(found.samples)} samples")
    show.line()
    show.table(
        ["layer", "weights", "value", *(name.replace("_", " ") for name in more)],
        [
            [r.layer, fmt.count(r.elements), f"{r.value:.4g}", *(f"{r.detail[name]:.4g}" for name in more)]
            for r in found.ranked()
        ],
    )
    if plot is not None:
        show.line()
        show.line(f"wrote {plot}")
