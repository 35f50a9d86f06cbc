"""LSTM, GRU and RNN: torch's own operators where the file has their form, else written out step by step.

ONNX orders the gates of an LSTM i, o, f, c and of a GRU z, r, h; torch i, f, g, o and r, z, n. ONNX's GRU with
linear_before_reset=1 is torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.sources.onnx.op import NeedsConstant, Op, Rule
from packlight.sources.onnx.values import Constant, Operand, Size

aten = torch.ops.aten
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_DEFAULT = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_TARGET = {
    "LSTM": aten.lstm.input, "GRU": aten.gru.input, "RNN": aten.rnn_tanh.input, "RNN relu": aten.rnn_relu.input,
}  # fmt: skip
_MOST_STEPS = 1000


def recurrent(op: Op, x: Operand, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
              peepholes: Any = None) -> Any:  # fmt: skip
    """x: [steps, batch, width], or batch first with layout=1. Outputs: all states, the last state (and cell)."""
    first = bool(op.attribute("layout", 0))
    if first:
        x = op.call(aten.permute.default, x, [1, 0, 2])
        h, c = (None if s is None else op.call(aten.permute.default, s, [1, 0, 2]) for s in (h, c))
    lengths = None if _whole(op, lengths, x) else lengths
    own = torch_has(op) and peepholes is None and lengths is None and op.attribute("direction") != "reverse"
    if own and all(isinstance(t, Constant) or t is None for t in (w, r, b)):
        made = _by_torch(op, x, w, r, b, h, c)
    else:
        made = _by_steps(op, x, w, r, b, lengths, h, c, peepholes)
    if not first:
        return made
    y = op.call(aten.permute.default, made[0], [2, 0, 1, 3])
    return y, *(op.call(aten.permute.default, s, [1, 0, 2]) for s in made[1:])


def _whole(op: Op, lengths: Any, x: Operand) -> bool:
    """Whether every sequence is as long as the tensor."""
    steps = op.shape(x)[0]
    if lengths is None:
        return True
    return isinstance(lengths, Constant) and not isinstance(steps, Size) and bool((lengths.tensor == steps).all())


def torch_has(op: Op) -> bool:
    """Whether activations and options are those of torch's operator."""
    count = 2 if op.attribute("direction", "forward") == "bidirectional" else 1
    given = [a.lower() for a in op.attribute("activations") or _DEFAULT[op.kind] * count]
    usual = [a.lower() for a in _DEFAULT[op.kind] * count]
    relu = op.kind == "RNN" and given == ["relu"] * count
    resets = op.kind != "GRU" or op.attribute("linear_before_reset", 0)
    plain = not op.attribute("clip") and not op.attribute("input_forget", 0)
    return (given == usual or relu) and bool(resets) and plain


def _by_torch(op: Op, x: Operand, w: Constant, r: Constant, b: Any, h: Any, c: Any) -> Any:
    directions = w.tensor.shape[0]
    weights: list[Any] = []
    for d in range(directions):
        weights += [_gates(op, t, d, "weights") for t in (w, r)]
        if b is not None:
            weights += [_gates(op, b, d, half) for half in ("input bias", "state bias")]
    h = _state(op, x, r, h)
    relu = op.kind == "RNN" and (op.attribute("activations") or ["Tanh"])[0].lower() == "relu"
    target = _TARGET["RNN relu" if relu else op.kind]
    states: Any = [h, _state(op, x, r, c)] if op.kind == "LSTM" else h
    y, *last = op.call(target, x, states, weights, b is not None, 1, 0.0, False, directions == 2, False)
    steps, batch, hidden = op.shape(x)[0], op.shape(x)[1], r.tensor.shape[-1]
    y = op.call(aten.reshape.default, y, [steps, batch, directions, hidden])
    return op.call(aten.permute.default, y, [0, 2, 1, 3]), *last


def _gates(op: Op, constant: Constant, direction: int, part: str) -> Constant:
    """One direction's weights [gates · hidden, width] or biases in torch's order, a parameter."""
    order = _ORDER[op.kind]

    def make(t: Tensor) -> Tensor:
        t = t[direction]
        if part != "weights":
            t = t.chunk(2)[part == "state bias"]
        blocks = t.chunk(len(order))
        return torch.cat([blocks[i] for i in order]).contiguous()

    return op.trace.derived(op.parameter(constant), f"{direction} {part}", make)


def _state(op: Op, x: Operand, r: Operand, given: Any) -> Any:
    """The first state [directions, batch, hidden], zero where none is given."""
    if given is not None:
        return given
    directions, _, hidden = op.shape(r)
    sizes = [directions, op.shape(x)[1], hidden]
    if isinstance(x, Constant):
        return op.constant(torch.zeros(sizes, dtype=x.dtype))
    return op.call(aten.new_zeros.default, x, sizes)


def _by_steps(op: Op, x: Operand, w: Operand, r: Operand, b: Any, lengths: Any, h: Any, c: Any, p: Any) -> Any:
    steps = op.shape(x)[0]
    if isinstance(steps, Size):
        raise NeedsConstant(f"{op.kind} in a form that torch's operator lacks is written out step by step; "
                            "fix the number of steps")  # fmt: skip
    if steps > _MOST_STEPS:
        raise PacklightError(f"{op.kind} of {steps} steps in a form that torch's operator lacks; at most {_MOST_STEPS}")
    direction, states = op.attribute("direction", "forward"), [_state(op, x, r, h)]
    states += [_state(op, x, r, c)] if op.kind == "LSTM" else []
    every, last = [], []
    for d in range(op.fixed(r, 0)):
        part = [None if t is None else op.call(aten.select.int, t, 0, d) for t in (w, r, b, p, *states)]
        backwards = direction == "reverse" or d == 1
        ys, ends = _one_direction(op, x, part, lengths, backwards, d)
        every.append(ys)
        last.append(ends)
    y = op.call(aten.stack.default, every, 1)
    return y, *(op.call(aten.stack.default, list(s), 0) for s in zip(*last, strict=True))


def _one_direction(op: Op, x: Operand, part: list[Any], lengths: Any, backwards: bool, d: int) -> tuple[Any, list[Any]]:
    w, r, b, p, *states = part
    cell = _Cell(op, w, r, b, p, d)
    steps, ys = op.fixed(x, 0), []
    for t in reversed(range(steps)) if backwards else range(steps):
        new = cell.step(op.call(aten.select.int, x, 0, t), states)
        out = new[0]
        if lengths is not None:
            alive = op.call(aten.unsqueeze.default, op.call(aten.gt.Scalar, lengths, t), 1)
            new = [op.call(aten.where.self, alive, n, s) for n, s in zip(new, states, strict=True)]
            out = op.call(aten.where.self, alive, out, op.call(aten.zeros_like.default, out))
        states = new
        ys.append(out)
    return op.call(aten.stack.default, ys[::-1] if backwards else ys, 0), states


class _Cell:
    """One step of one direction, as ONNX's specification defines it."""

    def __init__(self, op: Op, w: Any, r: Any, b: Any, p: Any, direction: int):
        self.op, self.w, self.r = op, w, r
        self.hidden = op.fixed(r, 1)
        gates = op.fixed(w, 0) // self.hidden
        self.bias = None if b is None else [op.call(aten.slice.Tensor, b, 0, i * gates * self.hidden,
                                                    (i + 1) * gates * self.hidden) for i in (0, 1)]  # fmt: skip
        self.peephole = (
            None
            if p is None
            else [op.call(aten.slice.Tensor, p, 0, i * self.hidden, (i + 1) * self.hidden) for i in range(3)]
        )
        self.functions = _functions(op, direction)
        self.clip = op.attribute("clip")

    def step(self, x: Any, states: list[Any]) -> list[Any]:
        if self.op.kind == "LSTM":
            return self._lstm(x, *states)
        return self._gru(x, *states) if self.op.kind == "GRU" else self._rnn(x, *states)

    def _add(self, a: Any, b: Any) -> Any:
        return self.op.call(aten.add.Tensor, a, b)

    def _mul(self, a: Any, b: Any) -> Any:
        return self.op.call(aten.mul.Tensor, a, b)

    def _one_minus(self, a: Any) -> Any:
        return self.op.call(aten.rsub.Scalar, a, 1)

    def _active(self, which: int, a: Any) -> Any:
        if self.clip:
            a = self.op.call(aten.clamp.default, a, -self.clip, self.clip)
        return self.functions[which](a)

    def _rows(self, x: Any, h: Any) -> tuple[list[Any], list[Any]]:
        """The gates' sums from the input and from the state."""
        given = [None, None] if self.bias is None else self.bias
        rows = ((x, self.w, given[0]), (h, self.r, given[1]))
        made = [self.op.call(aten.linear.default, v, m, g) for v, m, g in rows]
        gates = self.op.fixed(self.w, 0) // self.hidden
        a, b = ([self.op.call(aten.slice.Tensor, m, -1, i * self.hidden, (i + 1) * self.hidden) for i in range(gates)]
                for m in made)  # fmt: skip
        return a, b

    def _rnn(self, x: Any, h: Any) -> list[Any]:
        (a,), (b,) = self._rows(x, h)
        return [self._active(0, self._add(a, b))]

    def _lstm(self, x: Any, h: Any, c: Any) -> list[Any]:
        i, o, f, g = (self._add(a, b) for a, b in zip(*self._rows(x, h), strict=True))
        if self.peephole:
            i, f = self._add(i, self._mul(self.peephole[0], c)), self._add(f, self._mul(self.peephole[2], c))
        i, f = self._active(0, i), self._active(0, f)
        f = self._one_minus(i) if self.op.attribute("input_forget", 0) else f
        c = self._add(self._mul(f, c), self._mul(i, self._active(1, g)))
        o = self._add(o, self._mul(self.peephole[1], c)) if self.peephole else o
        return [self._mul(self._active(0, o), self.functions[2](c)), c]

    def _gru(self, x: Any, h: Any) -> list[Any]:
        (z, r, n), (hz, hr, hn) = self._rows(x, h)
        z, r = self._active(0, self._add(z, hz)), self._active(0, self._add(r, hr))
        if self.op.attribute("linear_before_reset", 0):
            n = self._active(1, self._add(n, self._mul(r, hn)))
        else:
            ends = 0, 2 * self.hidden, 3 * self.hidden
            weight = self.op.call(aten.slice.Tensor, self.r, *ends)
            bias = self.op.call(aten.slice.Tensor, self.bias[1], *ends) if self.bias else None
            reset = self.op.call(aten.linear.default, self._mul(r, h), weight, bias)
            n = self._active(1, self._add(n, reset))
        return [self._add(self._mul(self._one_minus(z), n), self._mul(z, h))]


_SIMPLE: dict[str, Any] = {
    "sigmoid": aten.sigmoid.default, "tanh": aten.tanh.default, "relu": aten.relu.default,
    "softplus": aten.softplus.default,
}  # fmt: skip


def _functions(op: Op, direction: int) -> list[Callable[[Any], Any]]:
    """The activations of one direction. alphas and betas are given in order to those that have such."""
    names = _DEFAULT[op.kind]
    given = op.attribute("activations") or names * (direction + 1)
    alphas, betas = iter(op.attribute("activation_alpha") or ()), iter(op.attribute("activation_beta") or ())
    made = [_function(op, name.lower(), alphas, betas) for name in given]
    return made[direction * len(names) : (direction + 1) * len(names)]


def _function(op: Op, name: str, alphas: Any, betas: Any) -> Callable[[Any], Any]:
    if name in _SIMPLE:
        return lambda x: op.call(_SIMPLE[name], x)
    alpha = next(alphas, {"leakyrelu": 0.01, "hardsigmoid": 0.2}.get(name, 1.0))
    match name:
        case "leakyrelu":
            return lambda x: op.call(aten.leaky_relu.default, x, alpha)
        case "elu":
            return lambda x: op.call(aten.elu.default, x, alpha)
        case "thresholdedrelu":
            return lambda x: op.call(aten.threshold.default, x, alpha, 0.0)
        case "hardsigmoid" | "affine":
            beta = next(betas, 0.5 if name == "hardsigmoid" else 0.0)

            def line(x: Any) -> Any:
                made = op.call(aten.add.Tensor, op.call(aten.mul.Tensor, x, alpha), beta)
                return op.call(aten.hardtanh.default, made, 0.0, 1.0) if name == "hardsigmoid" else made

            return line
    raise PacklightError(f"{op.kind} with activation {name!r}; packlight has {', '.join(_SIMPLE)}, leakyrelu, elu, "
                         "thresholdedrelu, hardsigmoid and affine")  # fmt: skip


RULES: dict[str, Rule] = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
