"""One run over two processes is the run of one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import packlight as pl
from packlight.train import norms
from packlight.train.processes import shares

SCRIPT = textwrap.dedent("""
    import json, sys
    sys.path.insert(0, {folder!r})
    from nets import digits, model
    import torch
    from packlight.train import Engine, Fit, GroupLasso, fit
    torch.set_num_threads(1)
    losses = []
    scores = []
    def told(p):
        losses.append(p.loss)
        scores.append(p.validation)
    # 1,200 samples in batches of 7: the last has 3, which two processes cannot share evenly
    how = Fit(epochs=0.2, batch=7, learning_rate=0.02, engine=Engine(patience=9))
    made = fit(model(), digits(), how, hooks=[GroupLasso(1e-3)], on_step=told, checkpoint=sys.argv[1] + ".ckpt")
    if int(__import__("os").environ.get("RANK", 0)) == 0:
        made.save(sys.argv[1] + ".plm")
        json.dump([losses, scores], open(sys.argv[1] + ".json", "w"))
""")


@pytest.mark.slow
def test_two_processes_give_the_losses_score_and_weights_of_one(tmp_path: Path) -> None:
    import json

    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29613"]
    for command, name in (([sys.executable], "one"), (launcher, "two")):
        done = subprocess.run([*command, str(script), str(tmp_path / name)], env=env, capture_output=True, text=True,
                              timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    (mine, score), (theirs, other) = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two"))
    assert len(mine) == round(0.2 * 172)
    assert theirs == pytest.approx(mine, rel=1e-3)
    assert theirs[:5] == pytest.approx(mine[:5], rel=1e-5)  # a wrong weighting would show in the first steps
    assert other[-1] == pytest.approx(score[-1], abs=1e-6) and score[-1] is not None
    one, two = (pl.load(tmp_path / f"{n}.plm").named_tensors() for n in ("one", "two"))
    assert all(torch.allclose(t, two[n], atol=1e-3) for n, t in one.items())


@pytest.mark.parametrize(("n", "processes"), [(297, 2), (3, 4), (8, 3)])
def test_evaluation_shares_are_everything_once(n: int, processes: int) -> None:
    assert [i for rank in range(processes) for i in shares(n, rank, processes)] == list(range(n))


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
def test_the_norm_of_several_processes_is_torchs_in_half_precision_too(group, dtype, off: float) -> None:
    """Values far from zero: in bf16 a sum of squares has lost the variance. off: rounding of outputs of size 3."""
    x = (torch.randn(32, 4, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.5 + 20).to(dtype)
    found = []
    for norm in (norms.batch_norm, torch.batch_norm):
        given, weight, bias = (t.clone().requires_grad_() for t in (x, torch.linspace(1, 2, 4), torch.zeros(4)))
        statistics = torch.zeros(4), torch.ones(4)
        y = norm(given, weight, bias, *statistics, True, 0.1, 1e-5, False)
        assert y.dtype == dtype
        (y.float() * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        found.append([y, given.grad, weight.grad, bias.grad, *statistics])
    for mine, wanted in zip(*found, strict=True):
        assert torch.allclose(mine.float(), wanted.float(), atol=off, rtol=off)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5)], ids=["flat", "sequence"])
def test_norms_without_weights_or_statistics(group, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    rest = (None, None, None, None, True, 0.1, 1e-5, False)
    assert torch.allclose(norms.batch_norm(x, *rest), torch.batch_norm(x, *rest), atol=1e-5)


TIMES = """
    import os, sys
    sys.path.insert(0, {folder!r})
    from nets import digits, model
    from packlight.train import Fit, fit, loop
    loop.CHECKPOINT_EVERY_S = (-1.0, 1e9)[int(os.environ["RANK"])]
    fit(model(width=2), digits(), Fit(epochs=1, batch=200), checkpoint=sys.argv[1])
"""


@pytest.mark.slow
def test_processes_whose_clocks_differ_save_together(tmp_path: Path) -> None:
    """Saving waits for all; one that waits while the other goes on would hang the run."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TIMES).format(folder=str(Path(__file__).parent)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29614"]
    done = subprocess.run([*launcher, str(script), str(tmp_path / "c")], env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
