"""SavedModel folders and `.tflite` files become Models that compute what TensorFlow computes."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from small_tasks import digits

import packlight as pl
from packlight.environments import own_environments
from packlight.measure.parity import check
from packlight.testing.examples import inputs_of

MISSING = own_environments().missing("tensorflow")
needs = pytest.mark.skipif(bool(MISSING), reason="packlight targets install tensorflow")
slow = pytest.mark.slow

MAKE = """
import os, sys
os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "tensorflow", "3"
import keras, numpy as np, tensorflow as tf
L, out = keras.layers, sys.argv[1]
keras.utils.set_random_seed(0)

image = keras.Input((16, 16, 3), name="image")
x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(image)
x = L.DepthwiseConv2D(3, padding="same", name="deep")(L.BatchNormalization()(x))
x = L.GlobalAveragePooling2D()(x)
keras.Model(image, L.Dense(4, name="head")(x)).export(f"{out}/picture")
facts = keras.Input((5,), name="facts")
keras.Model([image, facts], L.Dense(3)(L.Concatenate()([L.Dense(4)(facts), x]))).export(f"{out}/two")
tokens = keras.Input((12,), dtype="int32", name="tokens")
keras.Model(tokens, L.Dense(3)(L.LSTM(8)(L.Embedding(20, 6)(tokens)))).export(f"{out}/words")
small = keras.Input((8, 8, 1), name="image")
y = L.Flatten()(L.MaxPooling2D()(L.Conv2D(16, 3, padding="same", activation="relu", name="body")(small)))
keras.Model(small, L.Dense(10, name="head")(y)).export(f"{out}/digits")


def lite(name, **how):
    converter = tf.lite.TFLiteConverter.from_saved_model(f"{out}/picture")
    for key, value in how.items():
        setattr(converter.target_spec if key.startswith("supported") else converter, key, value)
    open(f"{out}/{name}.tflite", "wb").write(converter.convert())


smaller = [tf.lite.Optimize.DEFAULT]
samples = np.random.default_rng(0).random((16, 1, 16, 16, 3), np.float32)
lite("float")
lite("float16", optimizations=smaller, supported_types=[tf.float16])
lite("int8", optimizations=smaller, representative_dataset=lambda: ([s] for s in samples),
     supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8], inference_input_type=tf.int8, inference_output_type=tf.int8)


class Plain(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def one(self, x):
        return {"y": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def other(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def letters(self, x):
        return {"y": tf.strings.length(x)}



class Python(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def one(self, x):
        return {"y": tf.py_function(lambda v: open(f"{out}/ran", "w") and v, [x], tf.float32)}


net = Plain()
tf.saved_model.save(net, f"{out}/several", signatures={"one": net.one, "other": net.other})
tf.saved_model.save(net, f"{out}/named", signatures={"one": net.one})
tf.saved_model.save(net, f"{out}/letters", signatures=net.letters)
net = Python()
tf.saved_model.save(net, f"{out}/python", signatures=net.one)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What TensorFlow writes, in one process: importing it takes seconds."""
    made = tmp_path_factory.mktemp("tensorflow")
    python = own_environments().interpreter("tensorflow")
    done = subprocess.run([str(python), "-c", MAKE, str(made)], capture_output=True, text=True)
    assert (made / "python").is_dir(), done.stderr[-2000:]
    return made


@needs
@slow
@pytest.mark.parametrize(
    ("name", "inputs", "weights"),
    [
        ("picture", {"image": ("batch", 16, 16, 3)}, 340), ("two", {"facts": ("batch", 5)}, 360),
        pytest.param("words", {"tokens": ("batch", 12)}, 600, marks=pytest.mark.zoo),
        ("float.tflite", {"image": ("batch", 16, 16, 3)}, 300),
        pytest.param("float16.tflite", {"image": ("batch", 16, 16, 3)}, 300, marks=pytest.mark.zoo),
    ],
)  # fmt: skip
def test_files_come_in_under_their_names_with_an_open_batch(folder, name, inputs, weights):
    model = pl.load(folder / name)  # compared with TensorFlow before it is handed over
    shapes = {i.name: i.shape for i in model.inputs}
    assert shapes.items() >= inputs.items()
    assert model.fixed_batch is None
    assert 0.8 * weights < sum(p.numel() for p in model.parameters()) < 1.3 * weights


@needs
@slow
def test_an_int8_file_comes_in_as_a_quantized_model(folder):
    model = pl.load(folder / "int8.tflite")
    assert model.is_quantized
    assert model.inputs[0].dtype == "int8"


@needs
@slow
def test_a_saved_model_is_trained_pruned_quantized_and_exported(folder, tmp_path):
    task = digits(channels_last=True)
    model = pl.finetune(pl.load(folder / "digits"), task, epochs=3, learning_rate=0.05)
    pruned = pl.prune(model, task, keep=0.5)
    assert sum(p.numel() for p in pruned.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    small = pl.quantize(pruned, task)
    file = pl.export(small, tmp_path / "net.onnx")
    assert check(small, file, inputs_of(small, 8)).ok


@needs
@slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("several", "it has the signatures one, other; export"),
        ("python", r"it runs code or reaches out of its graph: EagerPyFunc \(1\)"),
        ("letters", "of strings, which no Model takes"),
    ],
)
def test_what_cannot_come_in_is_refused_in_one_line(folder, name, words):
    with pytest.raises(pl.PacklightError, match=words) as told:
        pl.load(folder / name)
    assert "\n" not in str(told.value)
    assert not (folder / "ran").exists()


@needs
@slow
def test_an_only_signature_is_taken_under_any_name(folder):
    model = pl.load(folder / "named")
    assert torch.equal(model(torch.ones(3, 2)), torch.full((3, 2), 2.0))


@needs
@slow
@pytest.mark.parametrize(
    "damage", ["cut", pytest.param("flipped", marks=pytest.mark.zoo), pytest.param("empty", marks=pytest.mark.zoo)]
)
def test_damaged_files_are_refused(folder, tmp_path, damage):
    data = bytearray((folder / "float.tflite").read_bytes())
    if damage == "flipped":
        data[8:40] = bytes(255 - b for b in data[8:40])
    path = tmp_path / "bad.tflite"
    path.write_bytes(data[: {"cut": 900, "flipped": len(data), "empty": 0}[damage]])
    with pytest.raises(pl.PacklightError, match="is refused"):
        pl.load(path)
    broken = tmp_path / "saved"
    shutil.copytree(folder / "picture", broken)
    graph = broken / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[: {"cut": 900, "flipped": 5, "empty": 0}[damage]])
    with pytest.raises(pl.PacklightError, match="is refused"):
        pl.load(broken)


def test_the_line_that_installs_is_told_where_tensorflow_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKLIGHT_ENVIRONMENTS", str(tmp_path / "none"))
    path = tmp_path / "net.tflite"
    path.write_bytes(np.zeros(64, np.uint8).tobytes())
    with pytest.raises(pl.PacklightError, match="run: packlight targets install tensorflow"):
        pl.load(path)
