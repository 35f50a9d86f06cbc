"""ONNX files that are broken or hostile are refused in one line, and open nothing outside their folder."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_file_builder import built, node, saved

import packlight as pl
from packlight.errors import PacklightError
from packlight.sources import from_onnx

RNG = np.random.default_rng(0)


def external(path, location, *, offset=0, length=None, shape=(4, 4)):
    """A file whose weight lies in another."""
    proto = built([node("MatMul", "x w", "y")], {"x": ["n", 4]})
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            weight.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(weight)
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_file_is_read(tmp_path):
    weight = RNG.standard_normal((4, 4)).astype(np.float32)
    (tmp_path / "w.bin").write_bytes(b"1234" + weight.tobytes())
    model = pl.load(external(tmp_path / "net.onnx", "w.bin", offset=4, length=64))
    assert np.array_equal(dict(model.named_parameters())["w"].detach().numpy(), weight.T) and model.notes == ()


@pytest.mark.parametrize("how", ["absolute", "above", "link", "linked folder", "missing"])
def test_external_data_elsewhere_is_refused(tmp_path, how):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    (inside / "folder").symlink_to(tmp_path)
    places = {"absolute": str(tmp_path / "w.bin"), "above": "../w.bin", "link": "link.bin",
              "linked folder": "folder/w.bin", "missing": "none.bin"}  # fmt: skip
    said = "not beside the file" if how == "missing" else "outside the file's folder"
    with pytest.raises(PacklightError, match=said):
        pl.load(external(inside / "net.onnx", places[how]))


@pytest.mark.parametrize(
    ("offset", "length", "shape"), [(0, 64, (1 << 20, 1 << 20)), (32, 64, (4, 4)), (0, 32, (4, 4))]
)
def test_external_data_that_is_shorter_than_it_claims_is_refused(tmp_path, offset, length, shape):
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with pytest.raises(PacklightError, match=r"tensor 'w' of shape .* claims .* bytes"):
        pl.load(external(tmp_path / "net.onnx", "w.bin", offset=offset, length=length, shape=shape))


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path):
    proto = built([node("MatMul", "x w", "y")], {"x": ["n", 4]})
    proto.graph.initializer.append(TensorProto(name="w", data_type=1, dims=(1 << 31, 1 << 31), raw_data=bytes(8)))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(PacklightError, match="'w' of shape"):
        pl.load(tmp_path / "net.onnx")


def test_constants_that_a_few_bytes_declare_are_bounded(tmp_path):
    nodes = [node("ConstantOfShape", "sizes", "huge"), node("ReduceSum", "huge", "sum"), node("Add", "x sum", "y")]
    path = saved(tmp_path / "net.onnx", nodes, {"x": ["n", 4]}, {"sizes": np.array([1 << 20, 1 << 20])})
    with pytest.raises(PacklightError, match=r"a constant of .* GB is declared"):
        pl.load(path)


def test_a_cycle_is_refused(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Add", "x b", "a"), node("Relu", "a", "b")], {"x": [1]}, outputs="b")
    with pytest.raises(PacklightError, match="is not a sound ONNX file"):
        pl.load(path)


def test_missing_initialisers_are_named(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("MatMul", "x w", "h"), node("Add", "h b", "y")], {"x": ["n", 4]})
    with pytest.raises(PacklightError, match="reads 2 values that nothing makes, no initialiser either: b, w"):
        pl.load(path)


def test_unknown_operators_are_listed_together_with_their_counts(tmp_path):
    nodes = [node("Foo", "x", "a"), node("Foo", "a", "b"), node("Bar", "b", "y", domain="here")]
    path = saved(tmp_path / "net.onnx", nodes, {"x": [1]})
    with pytest.raises(PacklightError, match=r"does not know: Foo \(2\), here.Bar \(1\)"):
        pl.load(path)


def test_shapes_and_types_that_do_not_fit_name_the_node(tmp_path):
    path = saved(tmp_path / "a.onnx", [node("MatMul", "x w", "y")], {"x": ["n", 4]}, {"w": np.ones((5, 2), np.float32)})
    with pytest.raises(PacklightError, match="node 'the y': MatMul does not fit its inputs"):
        pl.load(path)
    path = saved(tmp_path / "b.onnx", [node("Reshape", "x s", "y")], {"x": [4]}, {"s": np.array([1 << 40, 1 << 40])})
    with pytest.raises(PacklightError, match="node 'the y': Reshape does not fit its inputs"):
        pl.load(path)
    path = saved(tmp_path / "c.onnx", [node("Identity", "x", "y")], {"x": ([1], TensorProto.STRING)})
    with pytest.raises(PacklightError, match="tensors of type string"):
        pl.load(path)


def test_an_old_operator_set_is_refused(tmp_path):
    with pytest.raises(PacklightError, match="operator set 6; packlight reads 7 and newer"):
        pl.load(saved(tmp_path / "net.onnx", [node("Relu", "x", "y")], {"x": [1]}, opset=6))


def outcome(path):
    try:
        from_onnx(path, check=False)
    except PacklightError as error:
        return "refused in one line" if "\n" not in str(error) else str(error)
    return "read"


def test_cut_and_flipped_files_are_read_or_refused_in_one_line(tmp_path):
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Reshape", "r s", "y")]
    constants = {"w": RNG.standard_normal((2, 1, 3, 3)).astype(np.float32), "s": np.array([0, -1])}
    good = built(nodes, {"x": ["n", 1, 5, 5]}, constants).SerializeToString()
    path, outcomes = tmp_path / "net.onnx", set()
    for i in range(150):
        bad = bytearray(good)
        if i % 3 == 0:
            bad = bad[: int(RNG.integers(0, len(good)))]
        else:
            for _ in range(int(RNG.integers(1, 4))):
                bad[int(RNG.integers(0, len(good)))] ^= 1 << int(RNG.integers(0, 8))
        path.write_bytes(bytes(bad))
        outcomes.add(outcome(path))
    assert outcomes == {"read", "refused in one line"}


def test_functions_are_inlined(tmp_path):
    twice = helper.make_function(
        "my.house", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 18)]
    )
    proto = built([node("Twice", "x", "y", domain="my.house")], {"x": ["n", 2]}, functions=[twice])
    proto.opset_import.append(helper.make_opsetid("my.house", 1))
    onnx.save(proto, tmp_path / "net.onnx")
    assert [s.shape for s in pl.load(tmp_path / "net.onnx").outputs] == [("n", 2)]


@pytest.mark.slow
def test_a_gigabyte_of_external_data_takes_little_more_memory_than_itself(tmp_path):
    """Peak memory of a process that loads it, less what it has before, over the size of the data."""
    width, layers = 4096, 16
    nodes = [node("MatMul", f"v{i} w{i}", f"v{i + 1}") for i in range(layers)]
    proto = built(nodes, {"v0": ["n", width]}, outputs=f"v{layers}")
    row = RNG.standard_normal(width).astype(np.float32).tobytes()
    with open(tmp_path / "w.bin", "wb") as file:
        for _ in range(layers * width):
            file.write(row)
    for i in range(layers):
        weight = TensorProto(name=f"w{i}", data_type=1, dims=(width, width), data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "w.bin"), ("offset", i * width * width * 4), ("length", width * width * 4)):
            weight.external_data.add(key=key, value=str(value))
        proto.graph.initializer.append(weight)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    code = (
        "import json, resource, sys, packlight as pl\n"
        "from packlight.sources.onnx import from_onnx\n"
        "import onnx, onnx_ir\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak(); model = pl.load(sys.argv[1]); print(json.dumps([peak() - before, *model.notes]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.onnx"], capture_output=True, text=True, check=True
    )
    took, *notes = json.loads(done.stdout)
    assert notes == []  # compared with ONNX Runtime, which runs in a process of its own
    assert took / (layers * width * width * 4) <= 1.3


@pytest.mark.slow
def test_two_thousand_nodes_are_read_and_compared_in_five_seconds(tmp_path):
    nodes, constants = [], {}
    for i in range(500):
        constants |= {f"w{i}": RNG.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12, f"s{i}": np.float32(0.9)}
        nodes += [
            node("Conv", f"v{i} w{i}", f"c{i}", pads=[1, 1, 1, 1]), node("Relu", f"c{i}", f"r{i}"),
            node("Mul", f"r{i} s{i}", f"m{i}"), node("Add", f"m{i} v{i}", f"v{i + 1}"),
        ]  # fmt: skip
    onnx.save(built(nodes, {"v0": ["n", 16, 8, 8]}, constants, outputs="v500"), tmp_path / "net.onnx")
    code = (
        "import sys, time, onnx, onnx_ir, packlight as pl\n"
        "from packlight.sources.onnx import from_onnx\n"
        "began = time.process_time(); pl.load(sys.argv[1]); print(time.process_time() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.onnx"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 5
