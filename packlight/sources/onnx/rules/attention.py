"""Attention, as ONNX's operator set 23 and Microsoft's fused operators have it, and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.sources.onnx.op import Op, Rule
from packlight.sources.onnx.rules.contraction import turned
from packlight.sources.onnx.values import Constant, Operand, Value

aten = torch.ops.aten
_CPU = torch.device("cpu")


def split_heads(op: Op, x: Operand, heads: int) -> Any:
    """[batch, length, heads · width] → [batch, heads, length, width]."""
    batch, length, hidden = op.shape(x)
    parts = op.call(aten.reshape.default, x, [batch, length, heads, hidden // heads])
    return op.call(aten.permute.default, parts, [0, 2, 1, 3])


def join_heads(op: Op, x: Operand) -> Any:
    batch, heads, length, width = op.shape(x)
    turned_back = op.call(aten.permute.default, x, [0, 2, 1, 3])
    return op.call(aten.reshape.default, turned_back, [batch, length, heads * width])


def attention(op: Op, q: Operand, k: Operand, v: Operand, mask: Any = None, past_k: Any = None, past_v: Any = None,
              lengths: Any = None) -> Any:  # fmt: skip
    """softmax(q · kᵀ · scale + mask) · v; fewer heads of k and v than of q are shared."""
    flat = q.rank == 3
    if flat:
        q = split_heads(op, q, op.attribute("q_num_heads"))
        k, v = (split_heads(op, t, op.attribute("kv_num_heads")) for t in (k, v))
    before = 0 if past_k is None else op.shape(past_k)[2]
    if past_k is not None:
        k, v = (op.call(aten.cat.default, [p, t], 2) for p, t in ((past_k, k), (past_v, v)))
    presents = k, v
    groups = op.shape(q)[1] // op.shape(k)[1]
    if groups != 1:
        k, v = (op.call(aten.repeat_interleave.self_int, t, groups, 1) for t in (k, v))
    bias = _bias(op, q, k, mask, lengths, before)
    scale = op.attribute("scale") or 1 / math.sqrt(op.fixed(q, 3))
    if op.attribute("softcap", 0.0) or op.wants(3) or q.dtype != v.dtype or q.dtype != k.dtype:
        y, products = _written_out(op, q, k, v, bias, scale)
    else:
        y, products = op.call(aten.scaled_dot_product_attention.default, q, k, v, bias, 0.0, False, scale=scale), None
    y = join_heads(op, y) if flat else y
    return y, *presents, products


def _bias(op: Op, q: Operand, k: Operand, mask: Any, lengths: Any, before: Any) -> Any:
    """What is added to the products, None for nothing: −∞ where attention must not look."""
    queries, keys = op.shape(q)[2], op.shape(k)[2]
    bias = None if mask is None else _added(op, mask, q.dtype)
    if bias is not None and op.shape(bias)[-1] != keys:
        missing = keys - op.shape(bias)[-1]
        bias = op.call(aten.constant_pad_nd.default, bias, [0, missing], -math.inf)
    columns = op.call(aten.arange.default, keys, dtype=torch.int64, device=_CPU)
    rows = op.call(aten.arange.default, queries, dtype=torch.int64, device=_CPU)
    rows = op.call(aten.unsqueeze.default, op.call(aten.add.Tensor, rows, before), 1)
    if lengths is not None and before == 0:
        first = op.call(aten.sub.Tensor, op.cast(lengths, torch.int64), queries)
        rows = op.call(aten.add.Tensor, op.call(aten.reshape.default, first, [-1, 1, 1, 1]), rows)
    for seen in _windows(op, columns, rows):
        bias = _both(op, bias, _added(op, seen, q.dtype))
    if lengths is not None:
        ends = op.call(aten.reshape.default, op.cast(lengths, torch.int64), [-1, 1, 1, 1])
        bias = _both(op, bias, _added(op, op.call(aten.lt.Tensor, columns, ends), q.dtype))
    return bias


def _windows(op: Op, columns: Any, rows: Any) -> Iterator[Any]:
    """Which keys [queries, keys] each query sees, for every bound that the node sets."""
    left, right = op.attribute("left_window_size", -1), op.attribute("right_window_size", -1)
    if op.attribute("is_causal", 0):
        yield op.call(aten.le.Tensor, columns, rows)
    if left >= 0:
        yield op.call(aten.ge.Tensor, columns, op.call(aten.sub.Tensor, rows, left))
    if right >= 0:
        yield op.call(aten.le.Tensor, columns, op.call(aten.add.Tensor, rows, right))


def _both(op: Op, a: Any, b: Any) -> Any:
    return b if a is None else op.call(aten.add.Tensor, a, b)


def _added(op: Op, mask: Any, dtype: torch.dtype) -> Any:
    """A boolean mask as 0 and −∞."""
    if mask.dtype != torch.bool:
        return op.cast(mask, dtype)
    zero, never = (op.constant(v, dtype) for v in (0.0, -math.inf))
    return op.call(aten.where.self, mask, zero, never)


def _written_out(op: Op, q: Any, k: Any, v: Any, bias: Any, scale: float) -> tuple[Any, Any]:
    """The result, and the products in the state that qk_matmul_output_mode asks for: 0 as multiplied, 1 after softcap,
    2 after mask, 3 after softmax. A query that may look at nothing gets zeros."""
    products = op.call(aten.matmul.default, q, op.call(aten.transpose.int, k, -1, -2))
    products = op.call(aten.mul.Tensor, products, scale)
    cap = op.attribute("softcap", 0.0)
    capped = products
    if cap:
        capped = op.call(aten.mul.Tensor, op.call(aten.tanh.default, op.call(aten.div.Tensor, capped, cap)), cap)
    masked = capped if bias is None else op.call(aten.add.Tensor, capped, bias)
    wide = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}.get(
        op.attribute("softmax_precision", 0), masked.dtype)  # fmt: skip
    shares = op.cast(op.call(aten.softmax.int, op.cast(masked, wide), -1), masked.dtype)
    if bias is not None:
        blind = op.call(aten.eq.Scalar, op.call(aten.amax.default, masked, [-1], True), -math.inf)
        shares = op.call(aten.masked_fill.Scalar, shares, blind, 0.0)
    states = [products, capped, masked, shares]
    return op.call(aten.matmul.default, shares, v), states[op.attribute("qk_matmul_output_mode", 0)]


def rotary(op: Op, x: Operand, cosines: Any, sines: Any, places: Any = None) -> Any:
    """Turns pairs of features by an angle that grows with the place."""
    flat = x.rank == 3
    x = split_heads(op, x, op.attribute("num_heads")) if flat else x
    if places is not None:
        cosines, sines = (op.call(aten.embedding.default, t, places) for t in (cosines, sines))
    cosines, sines = (op.call(aten.unsqueeze.default, t, 1) for t in (cosines, sines))
    width = op.attribute("rotary_embedding_dim", 0) or op.fixed(x, 3)
    rest = op.call(aten.slice.Tensor, x, 3, width, 2**63 - 1) if width < op.fixed(x, 3) else None
    turning = op.call(aten.slice.Tensor, x, 3, 0, width) if rest is not None else x
    made = _turned_pairs(op, turning, cosines, sines, bool(op.attribute("interleaved", 0)), width)
    made = made if rest is None else op.call(aten.cat.default, [made, rest], 3)
    return join_heads(op, made) if flat else made


def _turned_pairs(op: Op, x: Any, cosines: Any, sines: Any, interleaved: bool, width: int) -> Any:
    half = width // 2
    cosines, sines = (op.call(aten.slice.Tensor, t, -1, 0, half) for t in (cosines, sines))
    places = [(0, 2**63 - 1, 2), (1, 2**63 - 1, 2)] if interleaved else [(0, half, 1), (half, width, 1)]
    a, b = (op.call(aten.slice.Tensor, x, 3, *p) for p in places)
    mul, add, sub = aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor
    real = op.call(sub, op.call(mul, a, cosines), op.call(mul, b, sines))
    imaginary = op.call(add, op.call(mul, a, sines), op.call(mul, b, cosines))
    if not interleaved:
        return op.call(aten.cat.default, [real, imaginary], 3)
    return op.call(aten.reshape.default, op.call(aten.stack.default, [real, imaginary], -1), op.shape(x))


def fused(op: Op, x: Operand, weight: Operand, bias: Any = None, mask: Any = None, *others: Any) -> Any:
    """com.microsoft.Attention: q, k and v of one product [hidden, 3 · hidden]."""
    if any(o is not None for o in others[:1]):
        raise PacklightError("com.microsoft.Attention with a past state; export it with separate operators")
    heads = op.attribute("num_heads")
    assert isinstance(weight, Constant)
    made = op.call(aten.linear.default, x, turned(op, weight), op.parameter(bias))
    sizes = op.attribute("qkv_hidden_sizes") or [weight.tensor.shape[1] // 3] * 3
    q, k, v = (split_heads(op, t, heads) for t in op.call(aten.split_with_sizes.default, made, sizes, -1))
    return join_heads(op, _attend(op, q, k, v, key_mask(op, mask, k, q.dtype), others[1] if len(others) > 1 else None))


def key_mask(op: Op, mask: Any, k: Operand, dtype: torch.dtype) -> Any:
    """Microsoft's masks: [batch, keys] of ones and zeros, [batch] of lengths, or [batch, queries, keys]."""
    if mask is None:
        return None
    if mask.rank == 1:
        columns = op.call(aten.arange.default, op.shape(k)[2], dtype=torch.int64, device=_CPU)
        mask = op.call(aten.lt.Tensor, columns, op.call(aten.unsqueeze.default, mask, 1))
    keep = op.call(aten.ne.Scalar, mask, 0)
    for axis in (1, 1) if keep.rank == 2 else (1,):
        keep = op.call(aten.unsqueeze.default, keep, axis)
    zero, never = op.constant(0.0, dtype), op.constant(op.attribute("mask_filter_value", -10000.0), dtype)
    return op.call(aten.where.self, keep, zero, never)


def _attend(op: Op, q: Any, k: Any, v: Any, mask: Any, bias: Any) -> Any:
    bias = mask if bias is None else _both(op, mask, bias)
    scale = op.attribute("scale") or 1 / math.sqrt(op.fixed(q, 3))
    if op.attribute("unidirectional", 0):
        keys = op.shape(k)[2]
        count = op.call(aten.arange.default, keys, dtype=torch.int64, device=_CPU)
        seen = op.call(aten.le.Tensor, count, op.call(aten.unsqueeze.default, count, 1))
        bias = _both(op, bias, _added(op, seen, q.dtype))
    return op.call(aten.scaled_dot_product_attention.default, q, k, v, bias, 0.0, False, scale=scale)


def multi_head(op: Op, q: Operand, k: Any = None, v: Any = None, bias: Any = None, mask: Any = None, added: Any = None,
               *others: Any) -> Any:  # fmt: skip
    """com.microsoft.MultiHeadAttention on separate q, k and v [batch, length, hidden]."""
    heads = op.attribute("num_heads")
    assert isinstance(q, Value) and k is not None and v is not None and k.rank == 3
    if bias is not None:
        sizes = [op.fixed(t, 2) for t in (q, k, v)]
        parts = op.call(aten.split_with_sizes.default, bias, sizes, 0)
        q, k, v = (op.call(aten.add.Tensor, t, b) for t, b in zip((q, k, v), parts, strict=True))
    q, k, v = (split_heads(op, t, heads) for t in (q, k, v))
    return join_heads(op, _attend(op, q, k, v, key_mask(op, mask, k, q.dtype), added))


def linear(op: Op, q: Operand, k: Operand, v: Operand, past: Any = None, decay: Any = None, rate: Any = None) -> Any:
    """A state [batch, heads, width of k, width of v] that every step reads and writes, written out step by step."""
    heads, shared = op.attribute("q_num_heads"), op.attribute("kv_num_heads")
    how, steps = op.attribute("update_rule", "gated_delta"), op.fixed(q, 1)
    scale = op.attribute("scale", 0.0) or 1 / math.sqrt(op.fixed(q, 2) // heads)
    dtype = q.dtype
    q, k, v = (op.cast(split_heads(op, t, n), torch.float32) for t, n in ((q, heads), (k, shared), (v, shared)))
    decay, rate = (None if t is None else op.cast(split_heads(op, t, _own_heads(op, t, shared)), torch.float32)
                   for t in (decay, rate))  # fmt: skip
    state = None if past is None else op.cast(past, torch.float32)
    if state is None:
        state = op.call(aten.new_zeros.default, q, [op.shape(q)[0], shared, op.fixed(k, 3), op.fixed(v, 3)])
    rows = []
    for t in range(steps):
        now = [None if x is None else op.call(aten.select.int, x, 2, t) for x in (q, k, v, decay, rate)]
        state = _updated(op, state, now[1:], how)
        seen = op.call(aten.repeat_interleave.self_int, state, heads // shared, 1) if heads != shared else state
        read = op.call(aten.matmul.default, op.call(aten.unsqueeze.default, now[0], 2), seen)
        rows.append(op.call(aten.mul.Tensor, op.call(aten.squeeze.dims, read, [2]), scale))
    y = join_heads(op, op.call(aten.stack.default, rows, 2))
    return op.cast(y, dtype), op.cast(state, dtype if past is None else past.dtype)


def _own_heads(op: Op, x: Operand, shared: int) -> int:
    """A rate may be one for all heads."""
    return 1 if op.fixed(x, 2) == 1 else shared


def _updated(op: Op, state: Any, now: Sequence[Any], how: str) -> Any:
    """decay · state + k ⊗ v, or rate · k ⊗ (v − decay · stateᵀ k) in the delta forms."""
    k, v, decay, rate = now
    if "gated" in how:
        gate = op.call(aten.exp.default, op.call(aten.unsqueeze.default, decay, 3))
        state = op.call(aten.mul.Tensor, state, gate)
    if "delta" in how:
        held = op.call(aten.matmul.default, op.call(aten.unsqueeze.default, k, 2), state)
        v = op.call(aten.sub.Tensor, v, op.call(aten.squeeze.dims, held, [2]))
        v = op.call(aten.mul.Tensor, v, rate)
    outer = op.call(aten.mul.Tensor, op.call(aten.unsqueeze.default, k, 3), op.call(aten.unsqueeze.default, v, 2))
    return op.call(aten.add.Tensor, state, outer)


RULES: dict[str, Rule] = {"Attention": attention, "RotaryEmbedding": rotary, "LinearAttention": linear}
CONTRIB: dict[str, Rule] = {"Attention": fused, "MultiHeadAttention": multi_head}
