"""One run over two processes is the run of one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import packlight as pl
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
