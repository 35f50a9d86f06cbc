"""Data: arrays and loaders in every form that users have them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from packlight.errors import PacklightError
from packlight.task import ArrayData, Data, LoaderData
from packlight.task.data import as_data

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10) % 3


def read(data: Data, size: int = 4) -> tuple[list[np.ndarray], np.ndarray | None, list[int]]:
    """All samples of every input, all targets, and the batch sizes."""
    batches = list(data.batches(size))
    targets = None if batches[0].targets is None else np.concatenate([b.targets for b in batches])
    inputs = [np.concatenate(column) for column in zip(*(b.inputs for b in batches), strict=True)]
    return inputs, targets, [len(b) for b in batches]


def dataset() -> TensorDataset:
    return TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


# arrays


def test_arrays_come_in_order_and_in_batches():
    inputs, targets, sizes = read(ArrayData(X, Y))
    assert np.array_equal(inputs[0], X)
    assert np.array_equal(targets, Y)
    assert sizes == [4, 4, 2]


def test_several_inputs_are_a_tuple():
    data = ArrayData((X, X * 2), Y)
    assert [len(c) for c in read(data)[0]] == [10, 10]
    assert np.array_equal(data.select(np.array([3, 1])).inputs[1], X[[3, 1]] * 2)


def test_stored_bytes_are_handed_out_scaled():
    data = ArrayData(np.array([[0], [255]], np.uint8), scale=2 / 255, shift=-1.0)
    (x,) = next(data.batches(2)).inputs
    assert x.dtype == np.float32
    assert np.allclose(x, [[-1], [1]], atol=1e-6)  # float32 rounding of 2/255 times 255
    assert data.inputs[0].dtype == np.uint8
    assert np.array_equal(next(data.subset(slice(1, 2)).batches(1)).inputs[0], x[1:])


def test_doubles_become_floats():
    assert ArrayData(X.astype(np.float64)).inputs[0].dtype == np.float32
    assert ArrayData(np.arange(3.0)).inputs[0].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "targets", "reason"),
    [
        (X, Y[:9], "equal lengths, got 10, 9"),
        ((X, X[:5]), None, "equal lengths, got 10, 5"),
        ([x for x in X], Y, "equal lengths, .* stacked in one array"),  # noqa: C416  # a list of samples, as users have
        (np.array(["a", "b"]), None, "arrays of numbers .* got <U1"),
        (np.array([{}, {}]), None, "arrays of numbers"),
        ([[1, 2], [3]], None, "samples along the first axis"),
        (3.0, None, "arrays of numbers .* got float"),
        (np.float32(3), None, "arrays of numbers"),
        (np.where(X == 3, np.nan, X), None, "input 0 of the data: 1 of 20 values are NaN or infinite"),
        (np.where(X > 17, np.inf, X), None, "2 of 20 values"),
        ((X, np.full(10, 1e300)), None, "input 1 of the data: 10 of 10 values"),
        (X, np.full(10, np.nan), "the targets of the data: 10 of 10 values are NaN"),
    ],
    ids=["targets", "inputs", "list of samples", "text", "objects", "ragged", "number", "scalar", "nan", "inf",
         "too large", "nan targets"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_arrays_that_are_no_samples_are_refused_in_one_line(inputs, targets, reason):
    with pytest.raises(PacklightError, match=reason) as error:
        ArrayData(inputs, targets)
    assert "\n" not in str(error.value)


def test_a_fingerprint_follows_content_shape_dtype_and_scale():
    same = [ArrayData(X, Y).fingerprint(), ArrayData(X.copy(), Y.copy()).fingerprint()]
    others = [
        ArrayData(X), ArrayData(X + 1, Y), ArrayData(X.reshape(10, 2, 1), Y), ArrayData(X.astype(np.float16), Y),
        ArrayData(X, Y, scale=1.0), ArrayData(X[:, ::-1], Y), ArrayData(X[:0], Y[:0]),
    ]  # fmt: skip
    assert same[0] == same[1]
    assert len({same[0], *(d.fingerprint() for d in others)}) == 1 + len(others)


def test_taking_the_first_samples_copies_scale_and_targets():
    data = ArrayData(np.arange(6, dtype=np.uint8)[:, None], np.arange(6), scale=0.5).take(2)
    assert len(data) == 2
    assert next(data.batches(5)).inputs[0].tolist() == [[0.0], [0.5]]


# loaders


def test_a_loader_gives_what_arrays_give():
    inputs, targets, sizes = read(LoaderData(DataLoader(dataset(), batch_size=4)))
    assert np.array_equal(inputs[0], X)
    assert np.array_equal(targets, Y)
    assert sizes == [4, 4, 2]


def test_a_loaders_batches_are_cut_to_the_size_asked_for():
    assert read(LoaderData(DataLoader(dataset(), batch_size=5)), 2)[2] == [2, 2, 1, 2, 2, 1]


FORMS = {
    "pair": (lambda x, y: (x, y), [X], Y),
    "list": (lambda x, y: [x, y], [X], Y),
    "several inputs in a row": (lambda x, y: (x, x * 2, y), [X, X * 2], Y),
    "several inputs in a tuple": (lambda x, y: ((x, x * 2), y), [X, X * 2], Y),
    "dict with labels": (lambda x, y: {"x": x, "labels": y}, [X], Y),
    "dict with targets": (lambda x, y: {"targets": y, "x": x}, [X], Y),
    "dict with label": (lambda x, y: {"x": x, "label": y}, [X], Y),
    "dict and targets": (lambda x, y: ({"x": x}, y), [X], Y),
    "inputs alone": (lambda x, y: x, [X], None),
    "a tuple of inputs alone": (lambda x, y: (x,), [X], None),
    "a dict without labels": (lambda x, y: {"x": x}, [X], None),
    "numpy": (lambda x, y: (x.numpy(), y.numpy()), [X], Y),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_read_in_the_form(form):
    make, inputs, targets = FORMS[form]
    batches = [make(torch.from_numpy(X[i : i + 4]), torch.from_numpy(Y[i : i + 4])) for i in (0, 4, 8)]
    data = LoaderData(batches)
    got, labels, _ = read(data)
    assert all(np.array_equal(g, w) for g, w in zip(got, inputs, strict=True))
    assert (labels is None) if targets is None else np.array_equal(labels, targets)
    assert len(data) == 10


def test_unlabelled_tuples_are_all_inputs():
    got, labels, _ = read(LoaderData([(X, X * 2)], labelled=False))
    assert len(got) == 2
    assert labels is None


def test_dict_batches_with_several_inputs_need_their_order():
    batches = [{"mask": X * 0, "ids": X, "labels": Y}]
    with pytest.raises(PacklightError, match=r"batches hold \['ids', 'mask'\]: name them in the order of the network"):
        read(LoaderData(batches))
    got, _, _ = read(LoaderData(batches, inputs=("ids", "mask")))
    assert np.array_equal(got[0], X)
    assert not got[1].any()


@pytest.mark.parametrize("names", [("ids",), ("ids", "mask", "more"), ("ids", "other")])
def test_dict_batches_with_other_keys_than_named_are_refused(names):
    with pytest.raises(PacklightError, match=r"batches hold \['ids', 'mask'\]"):
        read(LoaderData([{"mask": X, "ids": X}], inputs=names))


def test_bfloat16_is_read():
    assert read(LoaderData([torch.ones(2, 3, dtype=torch.bfloat16)]))[0][0].dtype == np.float32


SHUFFLING = {
    "shuffle=True": lambda: DataLoader(dataset(), batch_size=4, shuffle=True),
    "random sampler": lambda: DataLoader(dataset(), sampler=RandomSampler(dataset())),
    "random subset": lambda: DataLoader(dataset(), sampler=SubsetRandomSampler([1, 2])),
    "weighted": lambda: DataLoader(dataset(), sampler=WeightedRandomSampler([1.0] * 10, 10)),
    "random batches": lambda: DataLoader(dataset(), batch_sampler=BatchSampler(RandomSampler(dataset()), 2, False)),
}


@pytest.mark.parametrize("case", SHUFFLING)
def test_a_loader_that_shuffles_is_refused_except_for_training(case):
    with pytest.raises(PacklightError, match=r"this DataLoader shuffles.*give shuffle=False"):
        LoaderData(SHUFFLING[case]())
    assert len(LoaderData(SHUFFLING[case](), shuffled=True)) > 0


def test_an_iterator_can_be_read_only_once_and_is_refused():
    with pytest.raises(PacklightError, match="readable more than once"):
        LoaderData(iter([(X, Y)]))
    with pytest.raises(PacklightError, match="readable more than once"):
        LoaderData((X, Y) for _ in range(2))


def test_making_data_of_a_loader_starts_no_reading():
    class Counting(list):
        def __iter__(self):
            raise AssertionError("read too early")

    LoaderData(Counting())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True))


LENGTHS = {
    "plain": (lambda: DataLoader(dataset(), batch_size=4), 10),
    "last batch dropped": (lambda: DataLoader(dataset(), batch_size=4, drop_last=True), 8),
    "a sampler of some": (lambda: DataLoader(dataset(), sampler=[1, 2, 3]), 3),
    "a batch sampler of some": (lambda: DataLoader(dataset(), batch_sampler=[[0, 1], [5]]), 3),
    "a stream": (lambda: DataLoader(Stream(), batch_size=4), 10),
    "a list": (lambda: [(X, Y), (X, Y)], 20),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_the_length_is_the_number_of_samples_read(case):
    make, length = LENGTHS[case]
    data = LoaderData(make())
    assert len(data) == length == sum(len(b) for b in data.batches(100))


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([(np.where(X == 3, np.nan, X), Y)], "a batch of the data: 1 of 20 values are NaN"),
        ([(X, np.full(10, np.nan))], "a batch of the data: 10 of 10 values are NaN"),
        ([(X, Y[:3])], r"of a batch must have equal lengths, got \[3, 10\]"),
        ([("text", Y)], "arrays of numbers .* got str"),
        ([None], "arrays of numbers .* got NoneType"),
        ([(torch.tensor(3.0), torch.tensor(1))], "arrays of numbers"),
    ],
    ids=["nan", "nan targets", "lengths", "text", "none", "single samples"],
)
def test_batches_that_are_no_samples_are_refused_in_one_line(batches, reason):
    with pytest.raises(PacklightError, match=reason) as error:
        read(LoaderData(batches))
    assert "\n" not in str(error.value)


def test_a_loaders_fingerprint_follows_its_content():
    first, again, other = (LoaderData([(x, Y)]).fingerprint() for x in (X, X.copy(), X + 1))
    assert first == again != other


def test_taking_the_first_samples_of_a_loader_reads_no_more_than_needed():
    class Counting(list):
        seen = 0

        def __iter__(self):
            for item in super().__iter__():
                self.seen += 1
                yield item

    batches = Counting([(X, Y)] * 5)
    taken = LoaderData(batches).take(12)
    assert len(taken) == 12
    assert np.array_equal(taken.inputs[0], np.concatenate([X, X[:2]]))
    assert batches.seen == 2


def test_taking_from_nothing_is_refused():
    with pytest.raises(PacklightError, match="the data is empty"):
        LoaderData([]).take(3)


# whatever a user hands over


@pytest.mark.parametrize(
    ("given", "inputs", "labelled"),
    [
        (X, 1, False),
        (torch.from_numpy(X), 1, False),
        ((X, Y), 1, True),
        ((X, Y.tolist()), 1, True),
        ((torch.from_numpy(X), torch.from_numpy(Y)), 1, True),
        (((X, X), Y), 2, True),
        (DataLoader(dataset(), batch_size=4), 1, True),
        ([(X, Y)], 1, True),
        (ArrayData(X, Y), 1, True),
    ],
    ids=[
        "array",
        "tensor",
        "pair",
        "pair with a list",
        "tensors",
        "several inputs",
        "loader",
        "list of batches",
        "data",
    ],
)
def test_data_are_made_of_what_users_have(given, inputs, labelled):
    got, targets, _ = read(as_data(given))
    assert len(got) == inputs
    assert np.array_equal(got[0], X)
    assert (targets is not None) == labelled


@pytest.mark.parametrize(
    "given", [3, "mnist", b"x", {"x": X}, (X, Y, Y), object()], ids=["int", "str", "bytes", "dict", "three", "object"]
)
def test_anything_else_is_refused(given):
    with pytest.raises(PacklightError, match=r"data must be arrays, \(inputs, targets\) or a DataLoader, got"):
        as_data(given)


def test_nothing_stays_nothing():
    assert as_data(None) is None
