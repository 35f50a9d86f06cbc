"""The one table of operators: what each is, what it costs, and how training changes it.

A Model is a flat graph of ATen operators (torch.export's training IR). Everything that asks "what is this
node?" asks here: statistics, train/eval mode, placement, and the file reader, which opens nothing outside
this table. An operator that reads files, talks to the system or leaves the graph is deliberately absent.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

_KINDS = {
    "contraction": """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
        matmul bmm mm mv addmm addmv addbmm baddbmm einsum bilinear dot vdot outer scaled_dot_product_attention""",
    "lookup": "embedding embedding_bag",
    "rnn": "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    "norm": "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm",
    "unary": """relu relu6 hardtanh hardswish hardsigmoid gelu silu mish sigmoid tanh elu selu celu leaky_relu
        softplus softsign softshrink hardshrink tanhshrink log_sigmoid threshold exp exp2 expm1 log log2 log10
        log1p sqrt rsqrt square neg abs sign sgn floor ceil round trunc frac sin cos tan asin acos atan sinh cosh
        asinh acosh atanh erf erfc reciprocal logical_not bitwise_not isnan isinf isfinite clamp clamp_min
        clamp_max clip dropout alpha_dropout feature_dropout feature_alpha_dropout rrelu clone contiguous
        detach alias to _to_copy type_as positive deg2rad rad2deg nan_to_num masked_fill logit erfinv
        lift_fresh_copy lift_fresh glu bernoulli rsub signbit""",
    "binary": """add sub mul multiply div pow maximum minimum fmod remainder floor_divide true_divide atan2 eq ne lt le
        gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor where prelu lerp addcmul addcdiv
        copysign hypot xlogy fmax fmin bitwise_left_shift bitwise_right_shift __and__ __or__ copy logaddexp
        logaddexp2 heaviside float_power""",
    "softmax": "softmax log_softmax _softmax _log_softmax",
    "reduce": """mean sum amax amin max min argmax argmin prod var std var_mean std_mean norm linalg_vector_norm
        linalg_norm frobenius_norm logsumexp any all cumsum cumprod cummax cummin logcumsumexp topk sort argsort
        median count_nonzero cosine_similarity pairwise_distance diff""",
    "spatial": """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
        upsample_linear1d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d grid_sampler
        grid_sampler_2d pixel_shuffle pixel_unshuffle channel_shuffle pad constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d im2col col2im
        max_unpool2d affine_grid_generator adaptive_max_pool3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa""",
    "reshape": """view reshape flatten unflatten _unsafe_view view_as reshape_as squeeze unsqueeze
        squeeze_copy unsqueeze_copy view_copy unfold ravel""",
    "permute": "permute transpose t swapaxes swapdims movedim moveaxis mT adjoint numpy_T flip roll rot90",
    "broadcast": "expand expand_as repeat repeat_interleave broadcast_to tile broadcast_tensors meshgrid",
    "join": "cat concat concatenate stack hstack vstack dstack",
    "select": """slice select split split_with_sizes chunk unbind narrow index index_select gather take_along_dim
        tril triu diagonal masked_select masked_scatter scatter scatter_add scatter_reduce index_fill index_put
        index_add index_copy slice_scatter select_scatter diagonal_scatter tensor_split getitem one_hot""",
    "create": """zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full
        new_empty arange linspace eye scalar_tensor tril_indices triu_indices rand randn rand_like randn_like
        fill zero item""",
    "size": "sym_size sym_numel sym_stride",
    "spectral": """stft istft fft_rfft fft_irfft fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn
        view_as_real view_as_complex real imag complex
        hann_window hamming_window""",
    "weight": "_weight_norm _weight_norm_interface",
    "quantize": """choose_qparams quantize_per_tensor dequantize_per_tensor quantize_per_channel dequantize_per_channel
        quantize_per_channel_group dequantize_per_channel_group
        fake_quantize_per_tensor_affine fake_quantize_per_channel_affine""",
}
KIND: dict[str, str] = {name: kind for kind, names in _KINDS.items() for name in names.split()}

# Plain Python functions that torch.export leaves in a graph, all of them on sizes.
PYTHON_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem, "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "floordiv": operator.floordiv, "truediv": operator.truediv, "mod": operator.mod, "neg": operator.neg,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "pow": operator.pow, "ceil": math.ceil, "floor": math.floor, "trunc": math.trunc,
    "sym_min": torch.sym_min, "sym_max": torch.sym_max, "sym_float": torch.sym_float,
    "sym_int": torch.sym_int, "sym_not": torch.sym_not,
}  # fmt: skip
_PYTHON_NAMES: dict[Any, str] = {f: n for n, f in PYTHON_FUNCTIONS.items()}
_NAMESPACES = ("aten", "quantized_decomposed")

# Checks and bookkeeping that export leaves behind and that compute nothing.
ASSERTIONS = frozenset({
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range",
    "sym_constrain_range_for_size", "_check", "_functional_assert_async", "_functional_assert_scalar",
})  # fmt: skip

# Operators whose arguments say whether the network is training, by argument name.
MODE_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "dropout": ("p", "train"), "alpha_dropout": ("p", "train"), "feature_dropout": ("p", "train"),
    "feature_alpha_dropout": ("p", "train"), "batch_norm": ("training", "momentum"),
    "instance_norm": ("use_input_stats", "momentum"), "rrelu": ("training",),
    "lstm": ("dropout", "train"), "gru": ("dropout", "train"), "rnn_tanh": ("dropout", "train"),
    "rnn_relu": ("dropout", "train"), "scaled_dot_product_attention": ("dropout_p",),
}  # fmt: skip


def packet(node: Node) -> str:
    """The operator's name without namespace and overload: "conv2d", "add"; "" when the node is no call."""
    if node.op != "call_function":
        return ""
    overload = node.target
    if isinstance(overload, torch._ops.OpOverload):
        return overload.overloadpacket.__name__
    return _PYTHON_NAMES.get(overload) or str(getattr(overload, "__name__", overload))


def kind(node: Node) -> str:
    """The operator's family, one of the table's; "size" for arithmetic on sizes, "" when not in the table."""
    if node.op != "call_function":
        return ""
    if not isinstance(node.target, torch._ops.OpOverload):
        name = _PYTHON_NAMES.get(node.target, "")
        return "select" if name == "getitem" else "size" if name else ""
    return KIND.get(packet(node), "") if node.target.namespace in _NAMESPACES else ""


def target_name(node: Node) -> str | None:
    """The name a file gives this operator ("aten.conv2d.default", "python.floordiv"); None when not in the table."""
    if not kind(node):
        return None
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return f"python.{_PYTHON_NAMES[node.target]}"


def resolve(name: str) -> Callable[..., Any] | None:
    """The operator a file names, or None when the table does not allow it. Nothing else is ever looked up."""
    namespace, _, rest = name.partition(".")
    if namespace == "python":
        return PYTHON_FUNCTIONS.get(rest)
    packet_name, _, overload = rest.partition(".")
    if namespace not in _NAMESPACES or packet_name not in KIND:
        return None
    if namespace == "quantized_decomposed":
        load_quantized_operators()
    found = getattr(getattr(torch.ops, namespace), packet_name, None)
    if not isinstance(found, torch._ops.OpOverloadPacket) or overload not in found.overloads():  # type: ignore[no-untyped-call]
        return None
    operator_found: torch._ops.OpOverload = getattr(found, overload)
    return None if operator_found._schema.is_mutable else operator_found


def load_quantized_operators() -> None:
    """Register torch's `quantized_decomposed` library, the reference form of quantize and dequantize."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers the operators)


def argument(node: Node, name: str) -> Any:
    """The value of an operator's argument by its schema name, or its default."""
    for i, a in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if a.name == name:
            if i < len(node.args) and not a.kwarg_only:
                return node.args[i]
            return node.kwargs.get(name, a.default_value)
    raise KeyError(f"{node.target} has no argument {name!r}")


def set_argument(node: Node, name: str, value: Any) -> None:
    """Set an operator's argument by its schema name, wherever it stands."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    i = next(i for i, a in enumerate(arguments) if a.name == name)
    if arguments[i].kwarg_only or name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
        return
    args = list(node.args)
    args += [a.default_value for a in arguments[len(args) : i + 1]]
    args[i] = value
    node.args = tuple(args)


def macs(node: Node, shape_of: Callable[[Any], tuple[int, ...]]) -> int:
    """Multiply-accumulates of one node. shape_of gives the concrete shape of any tensor argument.

    Contractions and recurrent cells count; norms, activations and element-wise work count nothing, as is
    usual in the literature. Bias additions are not counted.
    """
    name, args = packet(node), node.args
    if KIND.get(name) not in ("contraction", "rnn"):
        return 0
    match name:
        case "linear":
            return math.prod(shape_of(node)) * shape_of(args[1])[-1]
        case "conv1d" | "conv2d" | "conv3d" | "convolution":
            transposed = name == "convolution" and bool(args[6])
            return math.prod(shape_of(args[0] if transposed else node)) * math.prod(shape_of(args[1])[1:])
        case "conv_transpose1d" | "conv_transpose2d" | "conv_transpose3d":
            return math.prod(shape_of(args[0])) * math.prod(shape_of(args[1])[1:])
        case "matmul" | "bmm" | "mm" | "mv" | "dot" | "vdot":
            return math.prod(shape_of(node)) * shape_of(args[0])[-1]
        case "addmm" | "baddbmm" | "addmv":
            return math.prod(shape_of(node)) * shape_of(args[1])[-1]
        case "addbmm":
            return math.prod(shape_of(args[1])) * shape_of(args[2])[-1]
        case "bilinear":
            return math.prod(shape_of(node)) * math.prod(shape_of(args[2])[1:])
        case "scaled_dot_product_attention":
            *lead, queries, width = shape_of(args[0])
            keys, value_width = shape_of(args[1])[-2], shape_of(args[2])[-1]
            return math.prod(lead) * queries * keys * (width + value_width)
        case "lstm" | "gru" | "rnn_tanh" | "rnn_relu":
            packed = node.target._overloadname == "data"  # type: ignore[union-attr]  # (data, batch_sizes, hx, params, …)
            steps = shape_of(args[0])[:1] if packed else shape_of(args[0])[:2]
            weights: Any = args[3 if packed else 2]
            return math.prod(steps) * sum(math.prod(s) for s in map(shape_of, weights) if len(s) == 2)
        case "lstm_cell" | "gru_cell" | "rnn_tanh_cell" | "rnn_relu_cell":
            return math.prod(shape_of(args[0])[:-1]) * sum(math.prod(shape_of(w)) for w in args[2:4])
        case "einsum":
            operands: Any = args[1]
            return _einsum_macs(str(args[0]), [shape_of(x) for x in operands])
    return math.prod(shape_of(node))


def _einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """The product of all sizes; the axes that "..." stands for count from the right, as "-1", "-2", …"""
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        before, dots, after = letters.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        names = [*before, *(str(i - hidden) for i in range(hidden)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return math.prod(list(sizes.values()))
