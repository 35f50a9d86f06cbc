"""Training steps from YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from packlight.errors import PacklightError
from packlight.train import Distillation, Engine, Fit, GroupLasso, Recipe, Schedule, Sparsify, read_recipe
from packlight.train import recipe as module

YAML = """
fit: {epochs: 10, batch: 64, schedule: {kind: linear, warmup: 0.1}, engine: {precision: bf16, ema: 0.999}}
distillation: {temperature: 2, kind: dist}
hooks:
  - group_lasso: {strength: 1.0e-4, exclude: [head*]}
  - sparsify: {sparsity: 0.8, scope: global, exclude: [stem*]}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_every_option_is_read_by_its_name(tmp_path: Path) -> None:
    found = read_recipe(written(tmp_path, YAML))
    assert found.fit == Fit(epochs=10, batch=64, schedule=Schedule("linear", 0.1), engine=Engine("bf16", ema=0.999))
    assert found.distillation == Distillation(2, kind="dist")
    lasso, sparsify = found.hooks
    assert isinstance(lasso, GroupLasso) and (lasso.strength, lasso.exclude) == (1e-4, ("head*",))
    assert isinstance(sparsify, Sparsify) and sparsify.how.exclude == ("stem*",) and sparsify.how.sparsity == 0.8


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == Recipe()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fit: {epoch: 3}", "no option 'epoch'; there are epochs, batch"),
        ("fit: {schedule: {kind: linear, end: 0}}", r"fit.schedule: no option 'end'"),
        ("fit: {epochs: many}", "fit: "),
        ("fit: {learning_rate: 1e-3}", "learning_rate is a number, got '1e-3'; YAML reads 1e-3 as text"),
        ("fit: {batch: 12.5}", "batch is a whole number, got 12.5"),
        ("fit: {batch: true}", "batch is a whole number, got True"),
        ("fit: {schedule: linear}", "schedule is a mapping, got 'linear'"),
        ("fit: {engine: {patience: 1.5}}", "fit.engine: patience is a whole number or nothing, got 1.5"),
        ("fit: {engine: {halve: 'no'}}", "halve is true or false, got 'no'"),
        ("fit: {1: 2, a: 3}", "no option 1, 'a'"),
        ("hooks: [entropy: {strength: 1, bits: 7.5}]", "entropy: bits is a whole number"),
        ("hooks: [sparsify: {sparsity: 0.5, exclude: 5}]", "exclude is a list of name patterns"),
        ("fit: 3", "fit holds named options, got 3"),
        ("train: {}", "a recipe holds fit, distillation, hooks"),
        ("hooks: {l1: 3}", "hooks is a list"),
        ("hooks: [lasso: {strength: 1}]", "no hook .*there are l1, l2, group_lasso"),
        ("hooks: [l1: {stength: 1}]", "l1 has no option 'stength'; there are strength, exclude"),
        ("hooks: [l1]", "a hook is a name with its options"),
        ("hooks: [l1: {}]", "l1: .*strength"),
        ("[1, 2", "is no YAML"),
        ("fit: !!python/object/apply:os.system [date]", "is no YAML"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        read_recipe(written(tmp_path, text))


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 70))
    with pytest.raises(PacklightError, match="too large"):
        read_recipe(written(tmp_path, bomb))
    with pytest.raises(PacklightError, match="a recipe holds"):
        module.recipe({"a": 1})


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PacklightError, match="cannot read recipe"):
        read_recipe(tmp_path / "none.yaml")


def test_a_single_pattern_need_not_be_a_list(tmp_path: Path) -> None:
    text = "hooks: [{l1: {strength: 1, exclude: head*}}, {sparsify: {sparsity: 0.5, exclude: head*}}]"
    l1, sparsify = read_recipe(written(tmp_path, text)).hooks
    assert l1.exclude == sparsify.how.exclude == ("head*",)
