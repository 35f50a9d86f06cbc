"""A student is known by its name and width: it reads its kind of input, and is as small as it was asked to be."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

import packlight as pl
from packlight import students
from packlight.errors import PacklightError

IMAGE, SPEECH, TEXT = (1, 12, 12), (4096,), (8,)
SHAPES = {
    "squeezenet": IMAGE, "mobilenet_v2": IMAGE, "efficientnet_lite": IMAGE, "resnet8": IMAGE, "resnet20": IMAGE,
    "ds_cnn": SPEECH, "conformer": SPEECH, "transformer": TEXT, "lstm": TEXT,
}  # fmt: skip
SEEING = [name for name, shape in SHAPES.items() if shape is IMAGE]
QUICK = ("resnet8", "transformer", "lstm")  # to capture
every_student = pytest.mark.parametrize("name", SHAPES)


def example(shape, n=2):
    generator = torch.Generator().manual_seed(0)
    if shape == TEXT:
        ids = torch.randint(1, 30_000, (n, *shape), generator=generator)
        return ids, torch.ones_like(ids)
    return (torch.randn(n, *shape, generator=generator),)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_names_are_those_that_these_tests_make():
    assert students.names() == tuple(SHAPES)


@every_student
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_every_student_gives_a_score_a_class(name, width):
    student = students.make(name, 5, SHAPES[name], width).eval()
    with torch.no_grad():
        scores = student(*example(SHAPES[name], n=3))
    assert scores.shape == (3, 5) and torch.isfinite(scores).all()


@pytest.mark.parametrize("name", SEEING)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 8), (2, 9, 30), (3, 224, 224)], ids=str)
def test_images_of_any_size_can_be_seen(name, shape):
    student = students.make(name, 3, shape, width=0.1).eval()
    with torch.no_grad():
        assert student(*example(shape, n=1)).shape == (1, 3)


@pytest.mark.parametrize("name", ["ds_cnn", "conformer"])
def test_one_window_of_sound_is_enough(name):
    with torch.no_grad():
        assert students.make(name, 3, (1024,), width=0.25).eval()(torch.randn(1, 1024)).shape == (1, 3)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES])
def test_a_captured_student_agrees_with_its_module(name):
    student = students.make(name, 3, SHAPES[name], width=0.25)
    inputs = example(SHAPES[name])
    model = pl.load(student, inputs)
    inputs = example(SHAPES[name], n=5)
    with torch.no_grad():
        wanted = student.eval()(*inputs)
        torch.testing.assert_close(model(*inputs), wanted, rtol=1e-4, atol=1e-5)  # float32; 1 % is a hundred times more


@every_student
def test_a_narrower_student_has_fewer_parameters(name):
    counts = [parameters(students.make(name, 3, SHAPES[name], width)) for width in (0.25, 0.5, 1.0)]
    assert counts[0] < counts[1] < counts[2]


@every_student
def test_the_seed_decides_the_weights(name):
    first, again, other = (students.make(name, 3, SHAPES[name], width=0.25, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("name", ["resnet8", "conformer", "lstm"])
def test_torchs_random_state_and_device_neither_move_nor_matter(name):
    plain = students.make(name, 3, SHAPES[name], width=0.25)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with torch.device("meta"):
        student = students.make(name, 3, SHAPES[name], width=0.25)
    students.smaller_than(name, 3, SHAPES[name], 1_000_000)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(student, plain)


@every_student
def test_the_student_under_a_limit_is_the_widest_that_keeps_it(name):
    student, width = students.smaller_than(name, 3, SHAPES[name], 200_000)
    assert parameters(student) <= 200_000 < parameters(students.make(name, 3, SHAPES[name], width + 0.001))
    assert same(student, students.make(name, 3, SHAPES[name], width))


@pytest.mark.parametrize("name", ["resnet8", "transformer"])
def test_the_refusal_of_a_limit_names_one_that_can_be_kept(name):
    with pytest.raises(PacklightError, match=r"has at least ([0-9,]+) parameters, 50 were allowed") as refusal:
        students.smaller_than(name, 3, SHAPES[name], 50)
    least = int(str(refusal.value).split("at least ")[1].split(" ")[0].replace(",", ""))
    assert parameters(students.smaller_than(name, 3, SHAPES[name], least)[0]) == least
    with pytest.raises(PacklightError):
        students.smaller_than(name, 3, SHAPES[name], least - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg", 10, IMAGE), r"no student 'vgg'; choose one of squeezenet, "),
        (
            ("lstm", 10, IMAGE),
            r"lstm reads token ids with a mask: its input_shape is \(tokens >= 1\), got \(1, 12, 12\)",
        ),
        (("resnet8", 10, TEXT), r"resnet8 reads images: its input_shape is \(channels >= 1, height >= 1, width >= 1\)"),
        (("resnet8", 10, 28), r"got \(28,\)"),
        (("resnet8", 10, (1, 0, 28)), r"got \(1, 0, 28\)"),
        (("resnet8", 10, (1, 28.0, 28)), r"got \(1, 28.0, 28\)"),
        (("conformer", 10, (1000,)), r"samples >= 1024\), got \(1000,\)"),
        (("resnet8", 1, IMAGE), "two or more classes apart, got classes=1"),
        (("resnet8", 10, IMAGE, 0), r"width is in \(0, 64\], got 0"),
        (("resnet8", 10, IMAGE, -1.0), "got -1.0"),
        (("resnet8", 10, IMAGE, math.nan), "got nan"),
        (("resnet8", 10, IMAGE, math.inf), "got inf"),
        (("resnet8", 10, IMAGE, 1.0, -1), "seed is a whole number >= 0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(arguments, message):
    with pytest.raises(PacklightError, match=message) as refusal:
        students.make(*arguments)
    assert "\n" not in str(refusal.value)


def test_importing_packlight_does_not_import_the_students():
    code = "import sys, packlight; print('packlight.students' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
