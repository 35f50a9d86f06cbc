"""`packlight share-weights`: weights that are looked up in tables."""

from __future__ import annotations

from typing import Annotated

import typer

from packlight.cli import options, outputs, progress
from packlight.cli.options import ExcludeOption, JsonOption, ModelArgument, OutFile


def share_weights(
    model: ModelArgument,
    out: OutFile,
    task: Annotated[
        str | None, typer.Option(help="Its calibration data weigh the errors of k-means; default: all count alike.")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="2^bits values, 1 to 8; default 4.")] = None,
    kind: Annotated[str, typer.Option(help="kmeans, powers, binary or ternary.")] = "kmeans",
    scope: Annotated[str, typer.Option(help="A table for: global, layer or channel.")] = "layer",
    group: Annotated[int, typer.Option(help="With --scope channel, output channels a table.")] = 1,
    init: Annotated[str, typer.Option(help="How k-means starts: linear, density or random.")] = "linear",
    seed: Annotated[int, typer.Option(help="Of --init random.")] = 0,
    exclude: ExcludeOption = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="PATTERN=BITS; may be repeated, the last that fits counts.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration samples to run, with --task.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Make every weight one of a few values, which a table holds, and save the network as a .plm file."""
    from packlight.api.compressing import share_weights as share
    from packlight.api.opening import load

    outputs.check_file(out)
    by_name = dict(options.pattern_and_bits(given) for given in layer or ())
    with progress.stages(as_json):
        made = share(
            load(model), task, bits=bits, kind=kind, scope=scope, group=group, init=init, seed=seed,
            exclude=exclude or (), layers=by_name, samples=samples,
        )  # fmt: skip
        made.save(out)
    outputs.wrote(out, made, as_json)
