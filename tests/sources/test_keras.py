"""Keras files become Models whose layers are torch's own, under their names, and compute what Keras computes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from small_tasks import digits

import packlight as pl
from packlight.model.operators import packet
from packlight.targets import Runner

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="needs keras")

MAKE = '''
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from keras import layers as L
keras.utils.set_random_seed(0)


def mixed():
    """Two inputs, padding that is odd, every kind of pooling and merging."""
    image, facts = keras.Input((17, 13, 3), name="image"), keras.Input((5,), name="facts")
    x = L.Rescaling(1 / 2.0, 0.1)(image)
    x = L.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(6.0)(x)
    y = L.SeparableConv2D(8, 4, padding="same", activation="swish", name="apart")(x)
    y = L.Dropout(0.3, name="drop")(y)
    x = L.Add(name="sum")([x, y])
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    x = L.Multiply()([x, gate])
    x = L.Concatenate()([L.MaxPooling2D(3, 2, padding="same")(x), L.AveragePooling2D(3, 2, padding="same")(x)])
    x = L.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(x)
    x = L.ZeroPadding2D(((1, 0), (0, 2)))(x)
    x = L.Cropping2D(((0, 1), (1, 0)))(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(x)
    x = L.LayerNormalization()(x)
    x = L.Flatten()(x)
    f = L.Dense(4, activation="gelu", name="facts_dense")(facts)
    x = L.Concatenate()([x, f])
    return keras.Model([image, facts], [L.Dense(3, activation="softmax", name="head")(x), f])


def text():
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = L.Embedding(50, 8, name="emb")(tokens)
    x = L.Bidirectional(L.LSTM(6, return_sequences=True), name="both")(x)
    x = L.GRU(8, return_sequences=True, name="gru")(x)
    x = x + L.MultiHeadAttention(2, 4, name="attend")(x, x)
    x = L.Conv1D(8, 3, padding="same", name="conv")(x)
    x = L.SimpleRNN(5, go_backwards=True, name="rnn")(x)
    return keras.Model(tokens, L.Dense(3, name="out")(x))


def residual():
    image = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = L.ReLU()(L.BatchNormalization(momentum=0.8, name="norm")(x))
    y = L.ReLU()(L.Conv2D(16, 3, padding="same", name="body")(x))
    x = L.Add()([x, y])
    x = L.MaxPooling2D()(x)
    return keras.Model(image, L.Dense(10, name="head")(L.Flatten()(x)))


def shaken(model):
    """Batch norms whose statistics matter."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


import sys
folder = sys.argv[1]
for name in ("mixed", "text", "residual"):
    model = globals()[name]() if name == "residual" else shaken(globals()[name]())
    model.save(f"{folder}/{name}.keras")
    rng = np.random.default_rng(1)
    inputs = [rng.random((3, *i.shape[1:])).astype("float32") if "float" in i.dtype
              else rng.integers(0, 50, (3, *i.shape[1:])).astype(i.dtype) for i in model.inputs]
    outputs = model(inputs, training=False)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    np.savez(f"{folder}/{name}.npz", *inputs, **{f"out{i}": o.detach().numpy() for i, o in enumerate(outputs)})
model.save(f"{folder}/residual.h5")
model.save_weights(f"{folder}/only.weights.h5")
keras.Sequential([L.Input((4,)), L.Lambda(lambda x: x * 2)]).save(f"{folder}/lambda.keras")
keras.Sequential([L.Input((4, 3)), L.UnitNormalization(), L.RandomFlip(), L.UnitNormalization()]).save(
    f"{folder}/unknown.keras")
keras.Sequential([L.Dense(3)]).save(f"{folder}/unbuilt.keras")
'''


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    done = subprocess.run([sys.executable, "-c", MAKE, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["mixed", "text"])
def test_a_network_computes_what_keras_computed(files, name):
    model = pl.load(files / f"{name}.keras")
    with np.load(files / f"{name}.npz") as arrays:
        inputs = [arrays[n] for n in arrays if n.startswith("arr")]
        wanted = [arrays[n] for n in arrays if n.startswith("out")]
    import torch

    found = model.flat(*map(torch.from_numpy, inputs))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-4, atol=1e-5)


def test_layers_have_their_names_and_are_torchs_own(files):
    model = pl.load(files / "mixed.keras")
    assert [i.name for i in model.inputs] == ["image", "facts"]
    layers = model.layers()
    kinds = {name: packet(layers[name]) for name in ("stem", "norm", "apart", "deep", "up", "head", "drop")}
    assert kinds == {"stem": "conv2d", "norm": "batch_norm", "apart": "conv2d", "deep": "conv2d",
                     "up": "conv_transpose2d", "head": "linear", "drop": "dropout"}  # fmt: skip
    moved = [n for n in model.nodes if packet(n) == "permute"]
    assert len(moved) <= 4  # in and out of channels first, not around every layer
    assert {"stem.weight", "head.bias", "norm.weight"} <= dict(model.named_parameters()).keys()
    text = pl.load(files / "text.keras").layers()
    assert {packet(text[n]) for n in ("both", "gru", "rnn")} == {"lstm", "gru", "rnn_tanh"}


@pytest.mark.slow
def test_a_keras_network_is_trained_pruned_quantized_and_exported(files, tmp_path):
    task = digits()
    splits = {}
    for split in ("train", "calibration", "validation", "test"):
        parts = list(task.data(split).batches(500))
        images = np.concatenate([np.moveaxis(b.inputs[0], 1, -1) for b in parts])
        labels = np.concatenate([b.targets for b in parts]) if parts[0].targets is not None else None
        splits[split] = images if labels is None else (images, labels)
    task = pl.Task("digits", **splits)
    model = pl.finetune(pl.load(files / "residual.keras"), task, epochs=4, learning_rate=0.05)
    thin = pl.prune(model, task, keep=0.6, finetune=pl.Fit(epochs=3, learning_rate=0.02))
    small = pl.quantize(thin, task)
    file = pl.export(small, tmp_path / "small.onnx")
    assert sum(p.numel() for p in thin.parameters()) <= 0.6 * sum(p.numel() for p in model.parameters())
    assert pl.measure(file, task)["quality"].value > 90
    with Runner(file) as runner:
        (scores,) = runner(splits["test"][0][:64])
    import torch

    wanted = small(torch.from_numpy(splits["test"][0][:64])).detach().numpy()
    assert (scores.argmax(1) == wanted.argmax(1)).mean() > 0.98


def test_hdf5_holds_the_same_network(files):
    one, other = pl.load(files / "residual.keras"), pl.load(files / "residual.h5")
    inputs = one.example_inputs(2)
    np.testing.assert_array_equal(one(*inputs).detach().numpy(), other(*inputs).detach().numpy())


REFUSED = {
    "lambda.keras": "is a Lambda layer, whose code is not run",
    "unknown.keras": r"no rule for these layers: RandomFlip, UnitNormalization × 2",
    "unbuilt.keras": "not a functional or sequential network that was built",
    "only.weights.h5": "holds weights, and no network",
    "cut.keras": "is not a Keras 3 file, or damaged",
    "other.keras": "is not a Keras 3 file, or damaged",
    "text.h5": "is not an HDF5 file of Keras, or damaged",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_come_in_is_refused_in_one_line(files, name):
    if name == "cut.keras":
        (files / name).write_bytes((files / "text.keras").read_bytes()[:2000])
    if name == "other.keras":
        with zipfile.ZipFile(files / name, "w") as archive:
            archive.writestr("readme", "nothing")
    if name == "text.h5":
        (files / name).write_text("text")
    with pytest.raises(pl.PacklightError, match=REFUSED[name]) as caught:
        pl.load(files / name)
    assert "\n" not in str(caught.value)
