"""`packlight prune` and `packlight inspect --prunable`: what they say, write and refuse."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_tasks import digits, trained

import packlight as pl

TASK_FILE = """
import sys
sys.path.insert(0, {tests!r})
from small_tasks import digits
task = digits({changes})
"""

USER_CODE = """
import torch
from torch import nn


def single():
    return nn.Linear(3, 3), torch.zeros(2, 3)


class Root(nn.Module):
    def forward(self, x):
        return x.square().sqrt()  # whose slope at 0 is no number


def steep():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Root(), nn.Linear(8, 10))
    with torch.no_grad():
        net[1].weight[0], net[1].bias[0] = 0, 0
    return net, torch.zeros(2, 1, 8, 8)
"""

RECIPE = """
pruning: {keep: 0.6, by: channels, exclude: [], kinds: [channels]}
samples: 64
compensate: false
teacher: false
finetune: {fit: {epochs: 0.2, batch: 64}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a user has: a saved network, code, task files and recipes."""
    place = tmp_path_factory.mktemp("user")
    trained().save(place / "net.plm")
    pl.quantize(trained(), digits()).save(place / "int8.plm")
    (place / "prunecode.py").write_text(USER_CODE)
    tests = str(Path(__file__).parent)
    changes = {"good": "", "unlabelled": "train=None, validation=None, test=None"}
    for name, changed in changes.items():
        (place / f"{name}.py").write_text(TASK_FILE.format(tests=tests, changes=changed))
    recipes = {
        "recipe": RECIPE, "odd": "prune: {keep: 0.5}", "text": "pruning: {keep: half}", "one": "pruning: 0.5",
        "name": "pruning: {kep: 0.5}", "step": "steps: 1.5", "hooks": "finetune: {hooks: [l1: {strength: 1.0e-5}]}",
        "kind": "pruning: {kinds: [rows]}", "pattern": "pruning: {exclude: 5}",
    }  # fmt: skip
    for name, text in recipes.items():
        (place / f"{name}.yaml").write_text(text)
    return place


@pytest.fixture
def run(folder, monkeypatch, command_line):
    monkeypatch.chdir(folder)
    return command_line


def prune(*more: str, model: str = "net.plm", out: str = "p.plm") -> tuple[str, ...]:
    return ("prune", model, "--out", out, *more)


TASK = ("--task", "good.py")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (prune("--keep", "0"), r"keep in \(0, 1\], got 0.0"),
        (prune("--keep", "1.5"), r"keep in \(0, 1\], got 1.5"),
        (prune("--keep", "nan"), r"keep in \(0, 1\], got nan"),
        (prune("--keep", "half"), "'--keep': .*valid number"),
        (prune("--by", "depth"), "by is one of params, macs, .*got 'depth'"),
        (prune("--scope", "all"), "scope is one of layer, global"),
        (prune("--score", "l3"), "score is one of l1, l2, geometric_median"),
        (prune("--multiple", "0"), "multiple >= 1"),
        (prune("--least", "2"), r"least in \[0, 1\]"),
        (prune("--least", "nan"), r"least in \[0, 1\]"),
        (prune("--seed", "-1"), "seed >= 0"),
        (prune("--cut", "rows"), "cuts channels, heads, width, got \\['rows'\\]"),
        (prune("--cut", "heads"), "nothing in digits-net can be pruned"),
        (prune("--exclude", "hed"), "no layer matches 'hed'; did you mean head"),
        (prune("--exclude", "*"), "nothing in digits-net can be pruned"),
        (prune("--layer", "stem"), "--layer stem: give a layer-name pattern and a share"),
        (prune("--layer", "stem=half"), "--layer stem=half: give"),
        (prune("--layer", "stem=2"), r"shares of layers in \(0, 1\], got stem: 2.0"),
        (prune("--layer", "steem=0.5"), "no layer matches 'steem'; did you mean stem"),
        (prune("--layer", "head=0.5"), "no layer that head names can be pruned"),
        (prune("--threshold", "-1"), "threshold >= 0"),
        (prune("--steps", "2"), "more than one needs training"),
        (prune("--steps", "0"), "steps >= 1"),
        (prune("--samples", "0", *TASK), "samples >= 1"),
        (prune("--score", "taylor"), "score 'taylor' needs data"),
        (prune("--score", "taylor", "--task", "unlabelled.py"), "has no train data"),
        (prune("--epochs", "1"), "fine-tuning needs data"),
        (prune("--epochs", "0", *TASK), "epochs > 0"),
        (prune("--lr", "0.1", *TASK), "give --epochs"),
        (prune("--sensitivity"), "give --task"),
        (prune("--sensitivity", "--task", "unlabelled.py"), "has no validation data"),
        (prune("--report", "p.txt"), "name it p.html"),
        (prune("--report", "no/p.html"), "folder no does not exist"),
        (prune("--task", "gone.py"), "no file gone.py"),
        (prune(model="gone.plm"), "gone.plm does not exist"),
        (prune(model="int8.plm"), "is quantized: prune the float network"),
        (prune(model="prunecode:single"), r"nothing in .* can be pruned \(.*an output of the network"),
        (prune("--score", "taylor", *TASK, model="prunecode:steep"), "is NaN or infinite"),
        (prune(out="p.onnx"), "networks are saved as .plm files"),
        (prune("--recipe", "gone.yaml"), "cannot read recipe gone.yaml"),
        (prune("--recipe", "odd.yaml"), r"a recipe of pruning holds pruning, steps.*got \['prune'\]"),
        (prune("--recipe", "text.yaml"), "text.yaml: pruning: keep is a number, got 'half'"),
        (prune("--recipe", "one.yaml"), "pruning holds named options, got 0.5"),
        (prune("--recipe", "name.yaml"), "no option 'kep'; there are keep"),
        (prune("--recipe", "step.yaml"), "steps is a whole number, got 1.5"),
        (prune("--recipe", "hooks.yaml"), "leave hooks out"),
        (prune("--recipe", "kind.yaml"), "cuts channels, heads, width"),
        (prune("--recipe", "pattern.yaml"), "exclude is a list of name patterns"),
        (("inspect", "int8.plm", "--prunable"), "is quantized"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing_behind(run, folder, words, said):
    before = sorted(p.name for p in folder.iterdir() if p.name != "__pycache__")
    code, out, error = run(*words)
    assert (code, out) == (2, ""), error
    told = [line for line in error.splitlines() if line.startswith("packlight: ")]
    assert len(told) == 1 and told[0] == error.splitlines()[-1] and "Traceback" not in error
    assert re.search(said, told[0]), error
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_a_cut_without_data_tells_sizes_and_widths(run, tmp_path):
    code, out, error = run(*prune(out=str(tmp_path / "p.plm")))
    assert code == 0, error
    assert re.search(r"parameters +5,066 +2,\d+ +\d+\.\d %", out) and re.search(r"stem, body 16 → \d+", out)
    assert "test data" not in out
    small = pl.load(tmp_path / "p.plm")
    assert pl.statistics(small).params <= 0.5 * 5066
    assert small(x=torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_with_a_task_and_training_the_score_stands_beside_a_control(run, tmp_path):
    page = tmp_path / "r.html"
    words = prune(*TASK, "--epochs", "0.3", "--samples", "64", "--report", str(page), out=str(tmp_path / "p.plm"))
    code, out, error = run(*words)
    assert code == 0, error
    assert "score, test data" in out and "control, trained the same way" in out and "on 397 samples" in out
    assert "Widths" in page.read_text() and "control: as it was" in page.read_text()
    lineage = pl.load(tmp_path / "p.plm").lineage
    assert [s.name for s in lineage[-2:]] == ["prune", "finetune"] and lineage[-1].options["teacher"] == "digits-net"


def test_channels_that_fade_are_cut_at_the_end_of_the_training(run, tmp_path):
    words = prune(*TASK, "--epochs", "1", "--gradual", "--no-control", out=str(tmp_path / "p.plm"))
    code, _, error = run(*words)
    assert code == 0, error
    lineage = pl.load(tmp_path / "p.plm").lineage
    assert [s.name for s in lineage[-2:]] == ["finetune", "prune"] and "gradual" in lineage[-2].options
    assert run(*prune(*TASK, "--gradual"))[0] == 2


def test_json_is_all_of_it_and_sensitivity_is_by_family(run, tmp_path):
    words = prune(*TASK, "--no-compensate", "--sensitivity", "--json", "--keep", "0.7", out=str(tmp_path / "p.plm"))
    code, out, _ = run(*words)
    found = json.loads(out)
    assert code == 0 and found["split"] == "test" and set(found["quality"]) == {"before", "after"}
    assert found["weight_bytes"] == [4 * n for n in found["params"]] and found["params"][0] == 5066
    widths = {w["layer"]: (w["before"], w["after"]) for w in found["widths"]}
    assert widths["stem"] == widths["body"] and widths["stem"][1] < 16 and widths["head"] == (10, 10)
    (stem,) = found["sensitivity"]
    assert stem["shares"] == [0.75, 0.5, 0.25] and stem["drop"][2]["value"] > 0
    assert pl.load(tmp_path / "p.plm").lineage[-1].options["compensated"] is False


def test_a_recipe_says_what_the_options_say_and_is_overruled_by_them(run, tmp_path):
    words = prune(*TASK, "--recipe", "recipe.yaml", "--keep", "0.8", "--no-control", out=str(tmp_path / "p.plm"))
    code, _, error = run(*words)
    assert code == 0, error
    cut, training = pl.load(tmp_path / "p.plm").lineage[-2:]
    assert cut.options["keep"] == 0.8 and cut.options["by"] == "channels" and cut.options["compensated"] is False
    assert training.options["epochs"] == 0.2 and training.options["batch"] == 64 and "teacher" not in training.options


def test_residual_blocks_go_before_channels_do(run, tmp_path):
    words = prune(*TASK, "--blocks", "1", "--keep", "0.9", "--samples", "64", out=str(tmp_path / "p.plm"))
    code, _, error = run(*words)
    assert code == 0, error
    small = pl.load(tmp_path / "p.plm")
    assert [s.name for s in small.lineage[-2:]] == ["drop_blocks", "prune"]
    assert small.lineage[-2].options["blocks"] == ["body"] and "body" not in small.layers()


def test_the_best_of_several_random_cuts_is_said_to_be_that(run, tmp_path):
    words = prune(*TASK, "--score", "random", "--draws", "3", "--samples", "64", out=str(tmp_path / "p.plm"))
    code, _, error = run(*words)
    assert code == 0, error
    assert pl.load(tmp_path / "p.plm").lineage[-1].options["score"] == "random"
    code, _, error = run(*prune(*TASK, "--draws", "3"))
    assert code == 2 and "random" in error


def test_a_cut_by_latency_is_the_widest_that_was_timed_as_fast_enough(run, tmp_path, monkeypatch):
    """A network takes as long as it has parameters: timed for real, one as small as this depends on what else runs."""

    def timed(models, inputs, threads):
        sizes = [pl.statistics(m).params for m in models]
        return [SimpleNamespace(ratio=SimpleNamespace(value=size / sizes[0])) for size in sizes]

    module = importlib.import_module("packlight.search.pruning.prune")
    monkeypatch.setattr(module, "export", lambda model, path, target, dims: model)
    monkeypatch.setattr(module, "compare", timed)
    words = prune(*TASK, "--by", "latency", "--keep", "0.6", "--samples", "64", "--no-compensate",
                  out=str(tmp_path / "p.plm"))  # fmt: skip
    code, _, error = run(*words)
    assert code == 0, error
    ratios = [float(r) for r in re.findall(r"of the channels: (\d\.\d+) of the latency", error)]
    assert len(ratios) == 5
    left = pl.statistics(pl.load(tmp_path / "p.plm")).params / 5066
    assert left <= 0.6 and f"{left:.2f}" == f"{max(r for r in ratios if r <= 0.6):.2f}"


def test_what_is_excluded_or_must_stay_a_multiple_does(run, tmp_path):
    code, out, _ = run(*prune("--multiple", "4", "--keep", "0.6", "--json", out=str(tmp_path / "p.plm")))
    assert code == 0
    assert all(w["after"] % 4 == 0 for w in json.loads(out)["widths"] if w["after"] != w["before"])


def test_layers_have_shares_of_their_own_and_a_threshold_stands_for_a_budget(run, tmp_path):
    out = tmp_path / "p.plm"
    code, said, _ = run(*prune("--layer", "b*=0.75", out=out))
    assert (code, "stem, body 16 → 12" in said) == (0, True)
    code, said, _ = run(*prune("--threshold", "0", "--json", out=out))
    assert code == 0
    found = json.loads(said)
    assert found["params"][0] == found["params"][1]


def test_inspect_tells_what_can_be_cut_and_what_never_is(run):
    code, out, error = run("inspect", "net.plm", "--prunable")
    assert (code, error) == (0, "")
    assert re.search(r"stem +channels +16 +451 ", out) and "never cut: head (an output of the network)" in out
    code, out, _ = run("inspect", "net.plm", "--prunable", "--json")
    found = json.loads(out)
    (family,) = found["families"]
    assert code == 0 and (family["name"], family["units"]) == ("stem", 16)
    assert ["stem.weight", 0, 16] in family["tensors"] and found["never_cut"] == {"head": "an output of the network"}
    # 9 of the stem, 2 of the norm, a row and a column of the body less their meeting, its bias, 16 columns of the head
    assert family["params"] == 9 + 2 + (2 * 16 - 1) * 9 + 1 + 16 * 10


def test_a_network_that_cannot_be_cut_says_so_in_inspect(run):
    code, out, _ = run("inspect", "prunecode:single", "--prunable")
    assert code == 0 and "nothing can be cut" in out and "an output of the network" in out
