"""`packlight prune`: options of the command line over those of a recipe, and the result in words."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from packlight.cli import outputs, progress, show, training
from packlight.cli.options import JsonOption, ModelArgument, OutFile, TargetOption, pattern_and_share
from packlight.errors import PacklightError
from packlight.report import format as fmt

if TYPE_CHECKING:
    from packlight.passes.prune import Groups
    from packlight.search.pruning.prune import Pruned
    from packlight.search.pruning.recipe import PruneRecipe
    from packlight.search.pruning.sensitivity import Sensitivity
    from packlight.search.pruning.widths import Width

_TENSORS = 3  # named in the table of what can be cut

Text = str | None
Whole = int | None


def prune(
    model: ModelArgument,
    out: OutFile,
    task: Annotated[Text, typer.Option(help="Data for scores, compensation and training; what the drop is of.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file: pruning, steps, samples, finetune. Options given here overrule it.")
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Share of --by that may stay, in (0, 1]; default 0.5.")] = None,
    by: Annotated[
        Text, typer.Option(help="params, macs, bytes, latency, or channels (of every layer); default params.")
    ] = None,
    scope: Annotated[Text, typer.Option(help="layer (all lose the same share) or global; default layer.")] = None,
    score: Annotated[
        Text, typer.Option(help="l1, l2, geometric_median, random; with data taylor, fisher, … (docs/pruning.md).")
    ] = None,
    multiple: Annotated[Whole, typer.Option(help="Kept widths are multiples of it; default 1.")] = None,
    least: Annotated[float | None, typer.Option(help="Share of every layer that stays; default 0.05.")] = None,
    cut: Annotated[
        list[str] | None, typer.Option(help="channels, heads or width; may be repeated. Default: all.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Layer-name pattern to leave whole; may be repeated.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="PATTERN=SHARE: what layers keep of their width; may be repeated.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Instead of a budget: cut what scores at most this; 1 is a layer's mean.")
    ] = None,
    blocks: Annotated[Whole, typer.Option(help="Residual blocks to leave out first; default none.")] = None,
    draws: Annotated[Whole, typer.Option(help="With --score random, the best of so many; default 1.")] = None,
    gradual: Annotated[
        bool | None, typer.Option("--gradual/--no-gradual", help="Let channels fade while it trains; default no.")
    ] = None,
    target: TargetOption = "onnxruntime",
    steps: Annotated[Whole, typer.Option(help="Cuts, with training after each; default 1.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data, in all; default none.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Its peak learning rate; default 0.01.")] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher/--no-teacher", help="Train after the network as it was; default so.")
    ] = True,
    compensate: Annotated[
        bool, typer.Option("--compensate/--no-compensate", help="What stays takes over what went; default with data.")
    ] = True,
    samples: Annotated[Whole, typer.Option(help="Of data, for compensation and scores; default 512.")] = None,
    seed: Annotated[Whole, typer.Option(help="Of training and of the random score; default 0.")] = None,
    control: Annotated[bool, typer.Option(help="Train the network as it was for as long, too.")] = True,
    report: Annotated[Path | None, typer.Option(help="An .html page to write.")] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Cut every family alone, too, and score it; minutes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut channels and heads off a network, prove the cut, and say what it cost. With --epochs it is trained after."""
    from packlight import targets
    from packlight.api.opening import load
    from packlight.search.pruning.gradual import Gradual
    from packlight.search.pruning.prune import pruned
    from packlight.search.pruning.sensitivity import sensitivity as cut_alone
    from packlight.task import Task

    outputs.check_file(out)
    outputs.check_page(report, "--report")
    pruning = {
        "keep": keep, "by": by, "scope": scope, "score": score, "multiple": multiple, "least": least, "seed": seed,
        "kinds": tuple(cut) if cut else None, "exclude": tuple(exclude) if exclude else None,
        "layers": dict(pattern_and_share(given) for given in layer) if layer else None, "threshold": threshold,
    }  # fmt: skip
    fit = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    chosen = _chosen(recipe, pruning, fit, {"steps": steps, "samples": samples, "draws": draws, "blocks": blocks})
    if gradual is not None:
        chosen = replace(chosen, gradual=(chosen.gradual or Gradual()) if gradual else None)
    chosen = replace(chosen, teacher=chosen.teacher and teacher, compensate=chosen.compensate if compensate else False)
    if sensitivity and task is None:
        raise PacklightError("--sensitivity scores on validation data; give --task")
    data = None if task is None else Task.named(task)
    alone: list[Sensitivity] = []
    with progress.stages_and_steps("pruning", as_json, chosen.finetune is not None) as (stage, advance):
        network = load(model)
        if sensitivity and data is not None:
            alone = cut_alone(network, data, chosen.pruning, on_stage=stage)
        found = pruned(
            network, data, chosen.pruning, control=control, on_stage=stage, on_step=training.shown(advance),
            target=targets.get(target), **chosen.run(),
        )  # fmt: skip
    found.model.save(out)
    told = found.as_json() | ({"sensitivity": [s.as_json() for s in alone]} if sensitivity else {})
    if report is not None:
        _write_report(report, told, network.name)
    if as_json:
        show.as_json({"wrote": str(out), **told})
        return
    _show(found, alone)
    if report is not None:
        show.line(f"wrote {report}")
    show.line(f"wrote {out}: {found.model!r}")


def _chosen(path: Path | None, pruning: dict[str, Any], fit: dict[str, Any], rest: dict[str, Any]) -> PruneRecipe:
    """The file's recipe with what the command line overrules."""
    from packlight.search.pruning.recipe import PruneRecipe, read_prune_recipe
    from packlight.train import Recipe

    found = read_prune_recipe(path) if path is not None else PruneRecipe()
    found = replace(found, pruning=replace(found.pruning, **_given(pruning)), **_given(rest))
    if found.finetune is None and fit["epochs"] is None:
        if fit["learning_rate"] is not None:
            raise PacklightError("--lr is of the training after the cut; give --epochs, too")
        return found
    how = found.finetune or Recipe()
    made = replace(how.fit, **_given(fit))
    if fit["epochs"] is not None:  # a recipe's steps would overrule it
        made = replace(made, schedule=replace(made.schedule, steps=None))
    return replace(found, finetune=replace(how, fit=made))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _write_report(path: Path, told: dict[str, Any], name: str) -> None:
    from packlight.files import write_text
    from packlight.report.pruning import page

    write_text(path, page(told, name))


def _show(found: Pruned, alone: list[Sensitivity]) -> None:
    before, after = found.before, found.after
    rows = [(what, show_, getattr(before, key), getattr(after, key)) for what, show_, key in (
        ("parameters", fmt.count, "params"), ("MACs, batch 1", fmt.compact, "macs"),
        ("bytes of weights", fmt.size, "weight_bytes"),
    )]  # fmt: skip
    show.table(
        ["", "before", "after", "left"],
        [[what, write(a), write(b), f"{100 * b / a:.1f} %" if a else ""] for what, write, a, b in rows],
    )
    show.line()
    show.line("widths  " + ("; ".join(_compact(found.widths)) or "no layer is narrower"))
    for note in found.model.notes:
        show.line(f"note    {note}")
    if found.quality:
        show.line()
        _scores(found)
    if alone:
        show.line()
        show.table(
            ["cut alone", "units", *(f"drop at {share:.0%}" for share in alone[0].shares)],
            [[s.name, str(s.units), *(fmt.value(m.as_json()) for m in s.drop)] for s in alone],
        )
    show.line()


def _compact(found: list[Width]) -> list[str]:
    """Layers that changed in the same way are told together: "stem, body.0 and 3 more 16 → 8"."""
    same: dict[tuple[int, int], list[str]] = {}
    for w in found:
        if w.before != w.after:
            same.setdefault((w.before, w.after), []).append(w.layer)
    return [f"{show.named(names)} {a} → {b or 'gone'}" for (a, b), names in same.items()]


def _scores(found: Pruned) -> None:
    rows = []
    for name, quality in found.quality.items():
        m, drop = quality.as_json(), found.drop.get(name)
        rows.append([
            {"before": "before", "after": "after", "control": "control, trained the same way"}[name],
            fmt.value(m), fmt.interval(m),
            "" if drop is None else fmt.value(drop.as_json()), "" if drop is None else fmt.interval(drop.as_json()),
        ])  # fmt: skip
    n = next(iter(found.quality.values())).n
    show.table(["", f"score, {found.split} data", "95 %", "drop from it", "95 %"], rows)
    show.line(f"on {fmt.count(n)} samples; drops are paired")


def show_prunable(groups: Groups, as_json: bool) -> None:
    """What can be cut of a network, and what is never cut and why."""
    from packlight.search.pruning.families import cuttable

    found = cuttable(groups)
    if as_json:
        show.as_json({"families": [asdict(f) for f in found], "never_cut": groups.frozen})
        return
    if found:
        rows = [
            [f.name, f.kind, fmt.count(f.units), fmt.count(f.params), _shorter(f.tensors)]
            for f in found
        ]  # fmt: skip
        show.table(["family", "kind", "units", "params a unit", "tensors that get shorter: name, axis, size"], rows)
    else:
        show.line("nothing can be cut")
    if groups.frozen:
        show.line()
    for layer, why in groups.frozen.items():
        show.line(f"never cut: {layer} ({why})")


def _shorter(tensors: tuple[tuple[str, int, int], ...]) -> str:
    named = [f"{name} {axis} {size}" for name, axis, size in tensors[:_TENSORS]]
    more = len(tensors) - _TENSORS
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
