"""What a trained network takes to download, without training: `.plt` files within budgets of 0.1 and 0.5 points, beside
plain compressors on float16 and int8 weights and k-means tables with Huffman codes.

LeNet-300-100, LeNet-5, ResNet-20 and the small MobileNet on Fashion-MNIST, the sentence encoder on BBC News, all with
folded batch norms. Bytes are those of files on disk that hold the whole network; of the baselines, of the weights
alone, which flatters them by some hundred bytes. Ratios are to the float32 parameters. Budgets are looked at on
validation data, drops given here are on test data (10,000 images, some 400 texts), paired with the float network.
"""

from __future__ import annotations

import heapq
import lzma
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

import packlight as pl
from benchmarks.case import named
from benchmarks.ledger import Finding, finding
from benchmarks.sizes import float_bytes, sized
from packlight.measure import Measurement
from packlight.measure.quality import evaluate
from packlight.model import Model
from packlight.passes.codebooks import Codebooks, share_weights
from packlight.passes.fold import fold
from packlight.task import Task

PARTS = "lenet300", "lenet5", "resnet20", "mobilenet_v2_small", "sentence_bbc"
BUDGETS = 0.1, 0.5  # points
TABLES = 5, 4, 3  # bits of k-means


def study(name: str, folder: Path) -> Iterator[Finding]:
    torch.set_num_threads(1)
    model, task = named(name).load(quick=False)
    model = fold(model).eval()
    before = evaluate(model, task)
    yield finding(f"{name}, float32", "bytes", Measurement.exact(float_bytes(model), "bytes"))
    for form, made, size in _rivals(model, task, folder / f"{name}-exact.plt"):
        yield from sized(f"{name}, {form}", size, model, evaluate(made, task).drop_from(before))
    for most in BUDGETS:
        began = time.monotonic()
        packed = pl.pack(model, folder / f"{name}.plt", task, budget=f"drop<={most}points")
        form = f"{name}, .plt within {most} points"
        lost = evaluate(pl.load(packed.path), task).drop_from(before)
        yield from sized(form, packed.file_bytes, model, lost)
        if packed.drop is not None:
            yield finding(form, "drop on validation data", packed.drop)
        yield finding(form, "seconds", Measurement.exact(time.monotonic() - began, "s"))


def _rivals(model: Model, task: Task, path: Path) -> Iterator[tuple[str, Model, int]]:
    yield ".plt, every bit", model, pl.pack(model, path).file_bytes
    half = model.copy()
    with torch.no_grad():
        for p in half.parameters():
            p.copy_(p.half().float())
    halves = b"".join(p.detach().half().numpy().tobytes() for p in half.parameters())
    yield "float16, xz", half, len(lzma.compress(halves, preset=9))
    whole = model.copy()
    stored = b""
    with torch.no_grad():
        for p in whole.parameters():
            scale = float(p.abs().max()) / 127 if p.dim() > 1 else 0.0
            if scale:
                levels = (p / scale).round()
                p.copy_(levels * scale)
                stored += levels.to(torch.int8).numpy().tobytes()
            else:
                stored += p.numpy().tobytes()
    yield "int8, xz", whole, len(lzma.compress(stored, preset=9))
    for bits in TABLES:
        shared = share_weights(model, Codebooks(bits=bits))
        yield f"k-means of {bits} bits, Huffman", shared, _huffman_bytes(shared)


def _huffman_bytes(shared: Model) -> int:
    """Tables, biases and a Huffman code of the indices of each layer, a byte a symbol for its code's length."""
    total = 0
    for tensor in shared.named_tensors().values():
        if tensor.dtype != torch.uint8:
            total += tensor.numel() * 4
            continue
        counts = Counter(tensor.flatten().tolist())
        heap = [(n, i) for i, n in enumerate(counts.values())]
        heapq.heapify(heap)
        bits, at = 0, len(heap)
        while len(heap) > 1:
            one, other = heapq.heappop(heap), heapq.heappop(heap)
            bits += one[0] + other[0]
            heapq.heappush(heap, (one[0] + other[0], at))
            at += 1
        total += -(-bits // 8) + len(counts)
    return total
