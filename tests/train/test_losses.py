"""Losses by which a student follows a teacher, by hand and by what they must not notice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from packlight.errors import PacklightError
from packlight.train import Distillation
from packlight.train.losses import (
    attention_loss,
    decoupled_loss,
    dist_loss,
    distillation_loss,
    relation_loss,
    score_loss,
    standardized,
    task_loss,
)

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(6, 5, generator=GENERATOR) for _ in range(2))
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_the_decoupled_loss_is_kd_where_the_other_classes_weigh_what_they_do_in_kd() -> None:
    """Zhao et al. 2022, equation 7: KD = TCKD + (1 − p_t) · NCKD, a sample at a time."""
    for i in range(6):
        s, t, y = STUDENT[i : i + 1], TEACHER[i : i + 1], TARGETS[i : i + 1]
        rest = 1 - float(F.softmax(t, 1)[0, y])
        others = torch.arange(5) != y
        nckd = F.kl_div(F.log_softmax(s[:, others], 1), F.log_softmax(t[:, others], 1), log_target=True,
                        reduction="batchmean")  # fmt: skip
        tckd = decoupled_loss(s, t, y, 1.0) - 8 * nckd
        assert float(tckd + rest * nckd) == pytest.approx(float(distillation_loss(s, t, 1.0)), rel=1e-5)


def test_dist_is_zero_for_equal_scores_and_not_for_others() -> None:
    assert float(dist_loss(TEACHER, TEACHER, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(dist_loss(STUDENT, TEACHER, 2.0)) > 0.1


def test_standardized_scores_forget_range_and_offset() -> None:
    assert torch.allclose(standardized(3 * TEACHER + 2), standardized(TEACHER), atol=1e-6)
    how = Distillation(standardize=True)
    assert float(score_loss(3 * TEACHER + 2, TEACHER, None, how)) == pytest.approx(0, abs=1e-5)
    assert float(score_loss(3 * TEACHER + 2, TEACHER, None, Distillation())) > 0.1


def test_scores_of_places_are_averaged_over_places() -> None:
    student, teacher = (torch.randn(2, 5, 3, 3, generator=GENERATOR) for _ in range(2))
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (student, teacher)]
    wanted = distillation_loss(flat[0], flat[1], 4.0)
    assert float(score_loss(student, teacher, None, Distillation())) == pytest.approx(float(wanted), rel=1e-6)


def test_attention_sees_where_not_how_many_channels_or_how_much() -> None:
    features = torch.randn(2, 4, 6, 6, generator=GENERATOR)
    assert float(attention_loss(features, 7 * features.repeat(1, 3, 1, 1))) == pytest.approx(0, abs=1e-9)
    assert float(attention_loss(features, features.flip(2))) > 0.1
    assert float(attention_loss(features, torch.randn(2, 8, 3, 3, generator=GENERATOR))) > 0


def test_relations_of_places_survive_a_turn_of_the_channels() -> None:
    features = torch.randn(2, 4, 6, generator=GENERATOR)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=GENERATOR)).Q
    assert float(relation_loss(features @ turn, features, 1)) == pytest.approx(0, abs=1e-5)
    assert float(relation_loss(features.flip(1), features, 1)) > 0.01


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: score_loss(STUDENT, TEACHER[:, :4], None, Distillation()), id="other classes"),
        pytest.param(lambda: score_loss(STUDENT, TEACHER, None, Distillation(kind="dkd")), id="dkd without labels"),
        pytest.param(lambda: relation_loss(TEACHER[None], TEACHER[None], 2), id="heads that do not divide"),
        pytest.param(lambda: Distillation(kind="crd"), id="unknown kind"),
    ],
)
def test_what_cannot_be_compared_is_an_error(call) -> None:
    with pytest.raises(PacklightError):
        call()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.bool])
def test_labels_are_integers_of_any_type(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    assert task_loss("cross_entropy")([STUDENT], labels.to(dtype)) == F.cross_entropy(STUDENT, labels)


def test_a_label_of_minus_100_is_left_out_as_in_torch() -> None:
    labels = torch.tensor([0, 1, 2, -100, -100, -100])
    assert task_loss("cross_entropy")([STUDENT], labels) == F.cross_entropy(STUDENT[:3], labels[:3])


@pytest.mark.parametrize(
    ("loss", "targets", "told"),
    [("cross_entropy", TARGETS + 1, "classes 0 to 4 apart, a target is 5"),
     ("cross_entropy", TARGETS[:, None], r"the targets are int64 \[6, 1\]"),
     ("cross_entropy", TARGETS.float(), r"the targets are float32 \[6\]"),
     ("mse", TARGETS, r"gives \[6, 5\], the targets are \[6\]")],
    ids=["range", "axis", "float", "mse"],
)  # fmt: skip
def test_targets_that_do_not_fit_are_one_clear_error(loss: str, targets: torch.Tensor, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        task_loss(loss)([STUDENT], targets)
