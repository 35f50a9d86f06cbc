"""How a run goes and ends: schedules, parts, averages, early stopping, memory, interruption, its log."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import digits, model, same

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.quality import evaluate
from packlight.task import Task
from packlight.train import L2, Engine, Fit, Hook, Hooks, Schedule, fit, loop
from packlight.train.diverged import overflowed

SHORT = Fit(epochs=1, batch=64, learning_rate=0.05)


def seen(task: Task, how: Fit, **more) -> list:
    found: list = []
    fit(model(), task, how, on_step=found.append, **more)
    return found


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("step", [1, 1, 0.1, 0.01]),
     ("cosine", [1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)])],
)  # fmt: skip
def test_a_schedule_by_hand(kind: str, wanted: list[float]) -> None:
    schedule = Schedule(kind, warmup=0)
    assert [schedule.factor(s, 100) for s in (0, 25, 50, 75)] == pytest.approx(wanted)


def test_steps_end_a_run_whatever_the_epochs(task: Task) -> None:
    assert [p.step for p in seen(task, Fit(batch=64, schedule=Schedule(steps=5)))] == [1, 2, 3, 4, 5]


def test_time_ends_a_run_and_the_rate_follows_the_clock(task: Task) -> None:
    found = seen(task, Fit(epochs=math.inf, batch=64, schedule=Schedule(time_s=1.0)))
    assert len(found) > 3 and found[-1].learning_rate < 0.3 * max(p.learning_rate for p in found)
    assert found[0].left_s > found[-1].left_s == 0


def test_a_batch_in_parts_moves_a_network_without_batch_norm_as_the_whole_does(task: Task) -> None:
    net = pl.load(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8))
    engines = Engine(), Engine(accumulate=3)
    whole, parts = (fit(net, task, Fit(batch=50, learning_rate=0.1, engine=engine)) for engine in engines)
    for name, tensor in whole.named_tensors().items():
        assert torch.allclose(tensor, parts.named_tensors()[name], atol=1e-5)


class Norms(Hook):
    """The gradient's norm at every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_step(self, run) -> None:
        self.seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in run.model.parameters())))


def test_the_gradient_is_clipped(task: Task) -> None:
    free, clipped = Norms(), Norms()
    fit(model(), task, SHORT, hooks=[free])
    fit(model(), task, Fit(epochs=1, batch=64, learning_rate=0.05, engine=Engine(clip=0.5)), hooks=[clipped])
    assert max(free.seen) > 0.6 and max(clipped.seen) <= 0.5 * (1 + 1e-4)


class Trail(Hook):
    """The weights after every step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def after_step(self, run) -> None:
        self.steps.append(run.model.named_tensors()["6.weight"].detach().clone())


def test_an_average_of_weights_is_what_it_says(task: Task) -> None:
    trail = Trail()
    averaged = fit(model(), task, Fit(epochs=0.5, batch=64, engine=Engine(ema=0.9)), hooks=[trail])
    wanted = model().named_tensors()["6.weight"].detach()
    for weight in trail.steps:
        wanted = 0.9 * wanted + 0.1 * weight
    assert torch.allclose(averaged.named_tensors()["6.weight"], wanted, atol=1e-6)


def test_training_ends_early_with_the_best_weights(task: Task, tmp_path: Path) -> None:
    """The learning rate is far too high on purpose, so that the score goes up and down."""
    how = Fit(epochs=30, batch=64, learning_rate=0.8, schedule=Schedule("constant"), engine=Engine(patience=2))
    found: list = []
    made = fit(model(), task, how, on_step=found.append, log=tmp_path / "log.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = [row["validation"] for row in rows if "validation" in row]
    assert found[-1].step < 30 * 19 and len(scores) >= 3
    assert scores[-3] == max(scores) and max(scores[-2:]) <= scores[-3]
    assert evaluate(made, task, "validation").measurement.value == pytest.approx(max(scores), abs=1e-6)


def test_early_stopping_needs_validation_data(task: Task) -> None:
    with pytest.raises(PacklightError, match="no validation data"):
        fit(model(), Task(train=task.train), Fit(engine=Engine(patience=1)))


@pytest.mark.parametrize("engine", [Engine(ema=0.9, patience=3), Engine("bf16", clip=1.0)], ids=["ema", "bf16"])
def test_a_run_with_all_its_state_resumes_where_it_was(task: Task, tmp_path: Path, monkeypatch, engine: Engine) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    how = Fit(epochs=3, batch=64, learning_rate=0.05, optimizer="adamw", engine=engine)

    def stop(progress) -> None:
        if progress.step == 25:
            raise RuntimeError("power cut")

    whole = fit(model(dropout=0.3), task, how)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model(dropout=0.3), task, how, checkpoint=tmp_path / "c", on_step=stop)
    assert same(whole, fit(model(dropout=0.3), task, how, checkpoint=tmp_path / "c", log=tmp_path / "log.jsonl"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[0] == 1 and steps[-1] == 57


class Poison(Hook):
    """The weights of a layer become huge at a step, as they do when a learning rate is far too high."""

    def after_step(self, run) -> None:
        if run.step == 7:
            with torch.no_grad():
                run.model.named_tensors()["6.weight"].fill_(3e38)


def test_a_loss_that_is_no_number_ends_the_run_with_step_layer_and_cause(task: Task, tmp_path: Path) -> None:
    with pytest.raises(PacklightError, match=r"diverged at step 8 of 19: .*layer 6 overflows, with weights as large"):
        fit(model(), task, SHORT, hooks=[Poison()], checkpoint=tmp_path / "c")


def test_data_that_is_no_number_is_named_as_the_cause(task: Task) -> None:
    def broken(x, generator):
        return x / 0.0

    with pytest.raises(PacklightError, match="input 0 holds values that are not finite"):
        fit(model(), digits(broken), SHORT)


def test_an_empty_loader_and_a_short_one_are_errors(task: Task) -> None:
    class Shrinking(torch.utils.data.IterableDataset):
        left = 1000

        def __iter__(self):
            samples = [(torch.zeros(1, 8, 8), 1)] * self.left
            self.left = 400
            return iter(samples)

    with pytest.raises(PacklightError, match="ended after 20 of 50 batches: shorter than the length it states"):
        fit(model(), Task(train=torch.utils.data.DataLoader(Shrinking(), batch_size=20)), Fit(batch=20))
    with pytest.raises(PacklightError, match="empty"):
        fit(model(), Task(train=(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64))), SHORT)


def test_fp16_on_a_cpu_is_refused(task: Task) -> None:
    with pytest.raises(PacklightError, match="needs a GPU"):
        fit(model(), task, Fit(engine=Engine("fp16")))


@pytest.mark.parametrize(
    "bad",
    [lambda: Schedule("sine"), lambda: Schedule(warmup=1.0), lambda: Schedule(steps=0), lambda: Schedule(time_s=0),
     lambda: Engine("int8"), lambda: Engine(accumulate=0), lambda: Engine(ema=1.0), lambda: Engine(clip=0),
     lambda: Engine(patience=0)],
)  # fmt: skip
def test_options_out_of_range_are_refused(bad) -> None:
    with pytest.raises(PacklightError):
        bad()


def test_a_loop_of_your_own_with_hooks_does_what_fit_does(task: Task) -> None:
    """The same batches, optimizer and penalty by hand: the same weights."""
    how = Fit(epochs=0.5, batch=64, learning_rate=0.05, weight_decay=0.0, schedule=Schedule("constant", warmup=0))
    batches = []

    class Batches(Hook):
        def loss(self, run, seen):
            batches.append((seen.inputs[0].clone(), seen.targets.clone()))

    wanted = fit(model(), task, how, hooks=[L2(0.01), Batches()])
    net = model()
    hooks = Hooks(net, [L2(0.01)], steps=len(batches))
    optimizer = torch.optim.SGD([*net.parameters(), *hooks.parameters()], lr=0.05, momentum=0.9, nesterov=True)
    net.train()
    for x, y in batches:
        loss = hooks.loss(torch.nn.functional.cross_entropy(hooks.forward(x), y), y)
        optimizer.zero_grad()
        loss.backward()
        hooks.before_step()
        optimizer.step()
        hooks.after_step()
    hooks.end()
    assert all(torch.allclose(t, net.named_tensors()[n], atol=1e-6) for n, t in wanted.named_tensors().items())


CHILD = textwrap.dedent("""
    import sys
    sys.path.insert(0, {folder!r})
    from nets import digits, model
    import torch
    from packlight.train import Engine, Fit, fit
    torch.set_num_threads(1)
    {body}
""")


def child(body: str) -> subprocess.Popen:
    script = CHILD.format(folder=str(Path(__file__).parent), body=textwrap.indent(textwrap.dedent(body), "").strip())
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_ctrl_c_keeps_the_step_it_was_at(task: Task, tmp_path: Path) -> None:
    body = f"""
how = Fit(epochs=3, batch=64, learning_rate=0.05)
fit(model(), digits(), how, checkpoint={str(tmp_path / "c")!r}, on_step=lambda p: print(p.step, flush=True))
"""
    run = child(body)
    assert run.stdout is not None
    for line in run.stdout:
        if int(line) == 10:
            run.send_signal(signal.SIGINT)
            break
    last = max([10, *map(int, run.stdout.read().split())])
    assert run.wait() != 0
    steps: list[int] = []
    how = Fit(epochs=3, batch=64, learning_rate=0.05)
    made = fit(model(), task, how, checkpoint=tmp_path / "c", on_step=lambda p: steps.append(p.step))
    assert steps[0] == last + 1
    assert same(made, fit(model(), task, how))


@pytest.mark.slow
def test_out_of_memory_says_which_batch_fits_and_halves_when_it_may(tmp_path: Path) -> None:
    """Under a real limit on the process's memory."""
    body = """
import resource
import numpy as np
import packlight as pl
from packlight.task import Task
torch.manual_seed(0)
net = pl.load(torch.nn.Sequential(torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
                                  torch.nn.Linear(64 * 64 * 64, 10)), torch.zeros(2, 1, 64, 64))
task = Task(train=(np.random.rand(512, 1, 64, 64).astype(np.float32), np.arange(512) % 10))
def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
fit(net, task, Fit(epochs=0.01, batch=8))
resource.setrlimit(resource.RLIMIT_AS, (used() + (1 << 30), -1))
how = dict(epochs=1, batch=512, learning_rate=1e-3)
try:
    fit(net, task, Fit(**how))
except pl.PacklightError as error:
    print(error)
fit(net, task, Fit(**how, engine=Engine(halve=True)))
print("trained")
"""
    run = child(body)
    out, err = run.communicate(timeout=300)
    assert "out of memory with 512 samples at once; Engine(accumulate=2) computes the same batch 256" in out, err
    assert out.strip().endswith("trained"), err


def test_equal_scores_are_no_progress_where_lower_is_better() -> None:
    x = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    data = (x, np.zeros((64, 10), np.float32))
    how = Fit(epochs=9, batch=64, learning_rate=1e-30, engine=Engine(patience=2))
    without_norm = pl.load(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8))
    found: list = []
    fit(without_norm, Task(train=data, validation=data, loss="mse", metric="mse"), how, on_step=found.append)
    assert len(found) == 3


class OfEight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(8, 64))


def test_a_network_of_one_batch_size_is_scored_on_all_validation_data(task: Task) -> None:
    """297 images are not a multiple of 8; what is filled up does not count."""
    net = pl.load(OfEight(), torch.zeros(8, 1, 8, 8))
    assert net.fixed_batch == 8
    found: list = []
    made = fit(net, task, Fit(epochs=1, batch=8, engine=Engine(patience=1)), on_step=found.append)
    assert found[-1].validation == pytest.approx(evaluate(made, task, "validation").measurement.value)


def test_a_log_holds_the_last_step_of_a_run_that_time_ended(task: Task, tmp_path: Path) -> None:
    found = seen(task, Fit(epochs=1e6, schedule=Schedule(time_s=0.1)), log=tmp_path / "log.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows and rows[-1]["step"] == found[-1].step


def test_a_run_that_had_ended_still_writes_a_log(task: Task, tmp_path: Path) -> None:
    how = Fit(epochs=0.1, batch=64)
    fit(model(), task, how, checkpoint=tmp_path / "c")
    fit(model(), task, how, checkpoint=tmp_path / "c", log=tmp_path / "log.jsonl")
    assert (tmp_path / "log.jsonl").read_text().count("loss") == 2


@pytest.mark.parametrize("option", ["checkpoint", "log"])
def test_a_file_that_could_not_be_written_is_refused_before_the_first_step(task: Task, tmp_path: Path, option) -> None:
    def step(progress) -> None:
        pytest.fail("a step was taken")

    for path, told in ((tmp_path / "none" / "x", "folder .* does not exist"), (tmp_path, "it is a folder")):
        with pytest.raises(PacklightError, match=told):
            fit(model(), task, SHORT, on_step=step, **{option: path})


def test_an_average_leaves_masks_of_infinities_alone() -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(4, 3)
            self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.0, 0.0]))

        def forward(self, x):
            return self.last(torch.softmax(x + self.mask, 1))

    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    net = pl.load(Masked(), torch.zeros(2, 4))
    made = fit(net, Task(train=(x, np.zeros(64, np.int64))), Fit(engine=Engine(ema=0.9)))
    assert torch.equal(made.named_tensors()["mask"], net.named_tensors()["mask"])
    assert overflowed(made) is None
