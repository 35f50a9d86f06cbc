"""`packlight estimate`: how fast a network could be on devices that are not at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from packlight.cli import progress, show
from packlight.cli.options import JsonOption, ModelArgument
from packlight.report import format as fmt


def estimate(
    model: ModelArgument,
    device: Annotated[
        list[str] | None,
        typer.Option(help='A device, "here", or a .yaml profile; may be repeated. Default: all that ship.'),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once.")] = 1,
    form: Annotated[str, typer.Option(help="Of what is not quantized: float32 or float16.")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """A lower bound of latency on devices, from their data sheets. Estimates, not measurements."""
    from packlight.api.measuring import estimate as estimated
    from packlight.api.opening import load
    from packlight.measure.devices import device_names

    with progress.stages(as_json):
        network = load(model)
        found = [estimated(network, name, batch=batch, form=form) for name in device or device_names()]
    if as_json:
        show.as_json([f.as_json() for f in found])
        return
    show.line(f"{network.name}, batch {batch}: estimates from peaks in data sheets, which runtimes reach a part of")
    show.line()
    show.table(
        ["device", "at least", "waits for memory", "weights and activations", ""],
        [
            [f.device.name, f"{1e3 * f.seconds:.3g} ms", f"{100 * f.memory_bound:.0f} %",
             fmt.size(f.weight_bytes + f.activation_bytes),
             f.device.title + ("" if f.fits else f": does not fit into its {fmt.size(f.device.memory_bytes)}")]
            for f in found
        ],
    )  # fmt: skip
