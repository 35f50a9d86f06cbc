"""The benchmark harness: `python -m benchmarks run | tables | check | list`. docs/benchmarks.md explains it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / ".bench"
COMMITTED = ROOT / "benchmarks" / "results" / "ledger.jsonl"
