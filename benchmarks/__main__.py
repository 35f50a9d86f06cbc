"""The command line of the harness. Exit codes: 0 done, or nothing changed; 1 a real difference; 2 bad input."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import COMMITTED, SCRATCH
from benchmarks.case import CASES, chosen
from packlight.errors import PacklightError

FRESH = SCRATCH / "ledger.jsonl"


def main(words: list[str] | None = None) -> int:
    try:
        options = _parser().parse_args(words)
        return int(options.does(options) or 0)
    except PacklightError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="packlight's benchmarks")
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="measure cases and append to a ledger; a killed run goes on where it was")
    run.add_argument("--quick", action="store_true", help="minutes: the demo's images, the cases and forms marked so")
    run.add_argument("--only", default="*", metavar="PATTERN", help="cases whose name fits this shell pattern")
    run.add_argument("--ledger", type=Path, default=FRESH, help="default: .bench/ledger.jsonl")
    run.add_argument("--again", action="store_true", help="measure cases anew that this commit has already")
    run.set_defaults(does=_run)

    study = commands.add_parser("study", help="compare ways to train, and append to a ledger")
    study.add_argument("name", help="a module of benchmarks/studies, or some parts of it: packing:lenet*")
    study.add_argument("--ledger", type=Path, default=FRESH, help="default: .bench/ledger.jsonl")
    study.set_defaults(does=_study)

    tables = commands.add_parser("tables", help="print the tables; with --write, put them and plots into the docs")
    tables.add_argument("--quick", action="store_true", help="of quick runs")
    tables.add_argument("--ledger", type=Path, default=COMMITTED, help="default: the committed one")
    tables.add_argument("--write", action="store_true", help="fill the blocks in README.md and docs/*.md, and plots")
    tables.set_defaults(does=_tables)

    check = commands.add_parser("check", help="compare the newest quick run with the committed ledger")
    check.add_argument("--ledger", type=Path, default=FRESH, help="the fresh one; default: .bench/ledger.jsonl")
    check.add_argument("--against", type=Path, default=COMMITTED, help="default: the committed one")
    check.set_defaults(does=_check)

    commands.add_parser("list", help="the cases and the forms").set_defaults(does=_list)

    case = commands.add_parser("case", help="what `run` starts for each case: findings as one JSON line")
    case.add_argument("name")
    case.add_argument("--quick", action="store_true")
    case.set_defaults(does=_case)
    return parser


def _run(options: argparse.Namespace) -> None:
    from benchmarks.run import run

    run(chosen(options.only, options.quick), options.quick, options.ledger, options.again)


def _study(options: argparse.Namespace) -> None:
    from benchmarks.study import run

    run(options.name, options.ledger)


def _tables(options: argparse.Namespace) -> None:
    from benchmarks.ledger import read
    from benchmarks.render import everything, write

    rows = read(options.ledger)
    if options.write:
        for path in write(rows):
            print(f"wrote {path}")
    else:
        print(everything(rows, "quick" if options.quick else "full"))


def _check(options: argparse.Namespace) -> int:
    from benchmarks.check import check
    from benchmarks.ledger import read

    return check(read(options.against), read(options.ledger))


def _list(options: argparse.Namespace) -> None:
    from benchmarks.forms import discover

    forms, refused = discover()
    for case in CASES:
        print(f"{case.name} ({'quick and full' if case.quick else 'full'})")
        for form in forms:
            if form.fits(case.network, quick=False):
                print(f"    {form.label}{' (quick too)' if form.quick and case.quick else ''}")
    for peer, reason in refused.items():
        print(f"{peer}: {reason}")


def _case(options: argparse.Namespace) -> None:
    from benchmarks.measure import CaseRun
    from benchmarks.process import die_with_parent

    die_with_parent()
    (case,) = chosen(options.name, options.quick)
    print(json.dumps({"findings": CaseRun(case, options.quick).measure()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
