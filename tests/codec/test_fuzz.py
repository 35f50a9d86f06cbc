"""Damaged and forged files end in a clear error, or in the same bytes from both decoders, in bounded time and memory.

PACKLIGHT_FUZZ=1000000 and --timeout 0 make a night's run of it; a case that fails is kept and named by its number.
"""

import os
import random
import resource
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from forged_files import forged, pieces_of
from made_files import said_of, save_tensors, tensors_of

import packlight as pl
from packlight.codec import Coder, load_packed, save_packed
from packlight.codec.forms import TYPES, Kind
from packlight.errors import PacklightError
from packlight.model import Model

CASES = int(os.environ.get("PACKLIGHT_FUZZ", "3000"))
FIRST = int(os.environ.get("PACKLIGHT_FUZZ_FIRST", "0"))
TOGETHER = 100  # files that one process of the decoder in C is given
SECONDS = 20  # of processor time that a file may take: small ones may have millions of levels of 66 bits
LARGEST = 1 << 31  # bytes that a process may hold; a file of 4 KB may become 20 MiB, and a level takes 8 bytes
ALLOWED = "max_allocation_size_mb=512:hard_rss_limit_mb=2048:detect_leaks=0"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Small files of every form and element type, alone and together, by both coders."""
    folder = tmp_path_factory.mktemp("seeds")
    found = []
    for coder in Coder:
        together = {}
        for kind in Kind:
            for dtype in TYPES:
                tensors = tensors_of(kind, dtype)
                if tensors := {n: t[:7, :40] if t.dim() > 1 and t.numel() else t for n, t in tensors.items()}:
                    save_tensors(folder / "t.plt", tensors, coder)
                    found.append(pieces_of(folder / "t.plt"))
                together |= {f"{kind}.{dtype}.{n}": t for n, t in list(tensors.items())[:1]}
        save_tensors(folder / "t.plt", together, coder)
        found.append(pieces_of(folder / "t.plt"))
    return found


@pytest.fixture(scope="module")
def apart():
    """A process that has done nothing else, so that what it holds at most is the decoder's doing."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


def answered(path):
    """What the decoder in Python says, the seconds of processor time that it took, and the most bytes held so far."""
    began = time.process_time()
    said = said_of(path)
    return said, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_both_decoders_refuse_or_agree(seeds, checked_decoder, apart, tmp_path):
    outcomes = {"ok": 0, "bad": 0}
    for first in range(FIRST, FIRST + CASES, TOGETHER):
        paths = []
        for case in range(first, min(first + TOGETHER, FIRST + CASES)):
            draw = random.Random(case)
            paths.append(tmp_path / f"{case}.plt")
            paths[-1].write_bytes(forged(draw.choice(seeds), draw))
        done = subprocess.run(
            [checked_decoder, "--check", *paths], capture_output=True, text=True, errors="replace",
            env={"ASAN_OPTIONS": ALLOWED}, timeout=TOGETHER * SECONDS,
        )  # fmt: skip
        assert done.returncode in (0, 2), f"{paths[len(done.stdout.splitlines())]}: {done.stderr[-2000:]}"
        for path, theirs in zip(paths, done.stdout.splitlines(), strict=True):
            mine, seconds, held = apart.submit(answered, path).result()
            assert seconds < SECONDS, path
            assert held < LARGEST, path
            outcomes[mine[:3].strip()] += 1
            assert mine == theirs if mine.startswith("ok") else theirs.startswith("bad "), f"{path}: {mine} | {theirs}"
            path.unlink()
    assert min(outcomes.values()) > CASES // 100, f"{outcomes}: the cases reach too little"


def test_a_forged_network_is_refused_or_opens(tmp_path):
    model = pl.load(torch.nn.Linear(5, 3).eval(), torch.randn(2, 5))
    save_packed(model, tmp_path / "net.plt")
    pieces = pieces_of(tmp_path / "net.plt")
    for case in range(CASES // 20):
        path = tmp_path / f"{case}.plt"
        path.write_bytes(forged(pieces, random.Random(f"network {case}")))
        try:
            assert isinstance(load_packed(path), Model)
        except PacklightError:
            path.unlink()
