"""Classical storage without training: plain number formats under zstd, and k-means codebooks under Huffman codes.

All code the tensors of the network with batch norms folded. int8: symmetric, one scale an output channel, tensors with
one axis float16. k-means + Huffman: weight sharing as in Deep Compression (Han et al. 2015, arXiv 1510.00149, sections
3 and 4) without its pruning and retraining: linear initial centroids, one codebook a tensor, canonical Huffman codes;
the number of clusters is chosen by validation accuracy.
"""

from __future__ import annotations

import heapq
import json
import struct
from functools import partial
from typing import Any

import numpy as np
from serving import SMALL, TRAINED, Array, Form, Job, Run, serve
from weights import Validation, arrays, network, running, smallest_allowed

CLUSTERS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256)
QUICK_CLUSTERS = (8, 16, 32, 64, 256)
ITERATIONS = 50


def folded(job: Job) -> Any:
    import packlight

    return packlight.fold(network(job))


def as_float(values: dict[str, Array], dtype: str) -> dict[str, Array]:
    return {name: value.astype(dtype) for name, value in values.items()}


def as_int8(values: dict[str, Array]) -> dict[str, Array]:
    stored = {}
    for name, value in values.items():
        if value.ndim < 2:
            stored[name] = value.astype(np.float16)
            continue
        rows = value.reshape(len(value), -1)
        scale = np.maximum(np.abs(rows).max(axis=1), 1e-12).astype(np.float32) / 127
        stored[name] = np.rint(rows / scale[:, None]).astype(np.int8).reshape(value.shape)
        stored[f"{name}/scale"] = scale
    return stored


def with_zstd(job: Job, form: str, level: int = 22) -> dict[str, Any]:
    """One safetensors file under zstd."""
    import zstandard
    from safetensors.numpy import save

    values = arrays(folded(job))
    stored = as_int8(values) if form == "int8" else as_float(values, form)
    (job.made / "network.safetensors.zst").write_bytes(zstandard.compress(save(stored), level))
    return {"format": form, "zstd_level": level}


def from_zstd(job: Job) -> Run:
    import zstandard
    from safetensors.numpy import load

    stored = load(zstandard.decompress((job.made / "network.safetensors.zst").read_bytes()))
    values = {name: value.astype(np.float32) for name, value in stored.items() if not name.endswith("/scale")}
    for name, value in values.items():
        if f"{name}/scale" in stored:
            values[name] = value * stored[f"{name}/scale"].reshape(-1, *[1] * (value.ndim - 1))
    return running(folded(job), values)


def with_huffman(job: Job) -> dict[str, Any]:
    model = folded(job)
    values = arrays(model)

    def make(clusters: int) -> tuple[bytes, dict[str, Array]]:
        file = encoded(values, clusters)
        return file, decoded(file)

    sweep = QUICK_CLUSTERS if job.quick else CLUSTERS
    file, options = smallest_allowed([sweep], make, Validation(job, model))
    (job.made / "network.huffman").write_bytes(file)
    return options


def from_huffman(job: Job) -> Run:
    return running(folded(job), decoded((job.made / "network.huffman").read_bytes()))


def encoded(values: dict[str, Array], clusters: int) -> bytes:
    """Header length (uint32), JSON header, then per tensor: float16 values, or float32 centroids, a code length a
    centroid (uint8), and the codes."""
    header, parts = [], []
    for name, value in values.items():
        if value.ndim < 2 or value.size <= 4 * clusters:
            header.append([name, value.shape, 0, 0])
            parts.append(value.astype("<f2").tobytes())
            continue
        centroids, symbols = clustered(value.ravel(), clusters)
        lengths = code_lengths(np.bincount(symbols, minlength=len(centroids)))
        codes = [format(code, f"0{length}b") for code, length in zip(canonical(lengths), lengths, strict=True)]
        text = "".join([codes[s] for s in symbols.tolist()])
        bits = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tobytes()
        header.append([name, value.shape, len(centroids), len(bits)])
        parts += [centroids.astype("<f4").tobytes(), bytes(lengths), bits]
    told = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<I", len(told)) + told + b"".join(parts)


def decoded(file: bytes) -> dict[str, Array]:
    """What `encoded` wrote, as float32 arrays by name."""
    start = 4 + struct.unpack_from("<I", file)[0]
    values: dict[str, Array] = {}
    for name, shape, clusters, coded in json.loads(file[4:start]):
        size = int(np.prod(shape))
        if not clusters:
            values[name] = np.frombuffer(file, "<f2", size, start).astype(np.float32).reshape(shape)
            start += 2 * size
            continue
        centroids = np.frombuffer(file, "<f4", clusters, start)
        lengths = list(file[start + 4 * clusters : start + 5 * clusters])
        start += 5 * clusters
        symbols = symbols_of(np.frombuffer(file, np.uint8, coded, start), lengths, size)
        values[name] = centroids[symbols].reshape(shape)
        start += coded
    return values


def clustered(flat: Array, clusters: int) -> tuple[Array, Array]:
    """Lloyd's algorithm in one dimension: (centroids that are used, float32, ascending; the index of each value)."""
    ordered = np.sort(flat).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], clusters)
    for _ in range(ITERATIONS):
        edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        first, last = np.r_[0, edges], np.r_[edges, len(ordered)]
        filled = last > first
        moved = np.diff(sums[np.stack([first, last])[:, filled]], axis=0)[0] / (last - first)[filled]
        if len(moved) == len(centroids) and np.allclose(moved, centroids, rtol=0, atol=1e-9):
            break
        centroids = moved
    return centroids.astype(np.float32), np.searchsorted((centroids[1:] + centroids[:-1]) / 2, flat)


def code_lengths(counts: Array) -> list[int]:
    """Huffman's lengths in bits; at least 1 each."""
    heap = [(int(n), i, [i]) for i, n in enumerate(counts)]
    lengths = [0 if len(heap) > 1 else 1] * len(heap)
    heapq.heapify(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        for i in a[2] + b[2]:
            lengths[i] += 1
        heapq.heappush(heap, (a[0] + b[0], a[1], a[2] + b[2]))
    return lengths


def canonical(lengths: list[int]) -> list[int]:
    """The codes that lengths alone determine: ascending by length, then by symbol."""
    codes, code, before = [0] * len(lengths), 0, 0
    for length, symbol in sorted((length, i) for i, length in enumerate(lengths)):
        code <<= length - before
        codes[symbol], code, before = code, code + 1, length
    return codes


def symbols_of(packed: Array, lengths: list[int], size: int) -> list[int]:
    """Decode `size` symbols."""
    table = {(length, code): i for i, (length, code) in enumerate(zip(lengths, canonical(lengths), strict=True))}
    symbols: list[int] = []
    code = length = 0
    for bit in np.unpackbits(packed).tolist():
        code, length = 2 * code + bit, length + 1
        if (length, code) in table:
            symbols.append(table[length, code])
            code = length = 0
            if len(symbols) == size:
                break
    return symbols


FORMS = [
    Form("float32-zstd", partial(with_zstd, form="float32"), from_zstd, TRAINED, timed=False),
    Form("float16-zstd", partial(with_zstd, form="float16"), from_zstd, TRAINED, timed=False),
    Form("int8-zstd", partial(with_zstd, form="int8"), from_zstd, TRAINED, timed=False),
    Form("k-means-huffman", with_huffman, from_huffman, SMALL, quick=False, timed=False),
]

if __name__ == "__main__":
    serve(FORMS, {"zstandard": "zstandard", "torch": "torch"})
