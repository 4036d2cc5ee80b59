"""The training loop: steps against Adam by hand, the EMA by its recursion, resumed runs with the same bits."""

import dataclasses
import functools
import json
import math
import operator
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from tiny import same_state, unet
from torch import nn

from hw3utils import devices
from hw3utils.files import file_sha256, read_json, read_tensors, write_tensors
from hw3utils.learning import run_files, training
from hw3utils.learning.ema import EMA
from hw3utils.learning.networks import UNet
from hw3utils.learning.objectives import DiffusionObjective
from hw3utils.learning.run_files import read_average, read_history
from hw3utils.learning.training import TrainConfig, fit, heldout_loss, train
from hw3utils.losses import noise_prediction_loss
from hw3utils.schedules import linear_schedule

CONFIG = TrainConfig(steps=12, batch_size=8, lr=1e-3, checkpoint_every=5, heldout_every=4)
OBJECTIVE = DiffusionObjective(linear_schedule(50, 1e-3, 0.1))


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (28, 3, 8, 8), dtype=torch.uint8, generator=g)
    return pictures, torch.randint(0, 5, (28,), generator=g)


def train_to_end(data, config=CONFIG, **options):
    """Train a fresh network; the network, its losses and the last step."""
    net, losses, step = unet(), [], None
    for step in train(net, data, OBJECTIVE, config, **options):
        losses.append(step.loss)
    return net, losses, step


def train_until(stop, data, **options):
    """Train a fresh network up to a step, and close the run."""
    for step in train(unet(), data, OBJECTIVE, CONFIG, **options):
        if step.step == stop:
            break


# ------------------------------------------------------------------------------------------------------------ the step


def test_steps_are_adam_on_the_objective_with_the_runs_own_draws(data):
    net, losses, _ = train_to_end(data)
    by_hand = unet()
    adam = torch.optim.Adam(by_hand.parameters(), lr=CONFIG.lr)
    generator = torch.Generator().manual_seed(CONFIG.seed)
    for step in range(CONFIG.steps):
        epoch, batch = divmod(step, len(data[0]) // CONFIG.batch_size)
        shuffle = torch.Generator().manual_seed((CONFIG.seed + 1) * 1_000_003 + epoch)
        index = torch.randperm(28, generator=shuffle)[8 * batch : 8 * batch + 8]
        x0, t, eps, label = OBJECTIVE.draw((data[0][index], data[1][index]), generator)

        def eps_model(x, t, label=label):
            return by_hand(x, t, label)

        loss = noise_prediction_loss(eps_model, x0, t, eps, OBJECTIVE.schedule).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
    for a, b in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_linear_model_learns_the_coefficient_that_is_known():
    """On N(0, s^2) the exact answer is c_t x_t; at a single time the model has one number to learn."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            return self.scale * x

    schedule, s = linear_schedule(1, 0.5, 0.5), 0.7
    x0 = s * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))
    net = Scale()
    config = TrainConfig(steps=300, batch_size=512, lr=1e-2, ema_decay=0.99)
    *_, last = train(net, x0, DiffusionObjective(schedule), config)
    exact = float(schedule.noise[1] / (schedule.alpha_bar[1] * s**2 + 1 - schedule.alpha_bar[1]))
    assert last.ema.average[0].item() == pytest.approx(exact, rel=0.02)


def test_same_seed_same_bits_and_another_seed_other_ones(data):
    (a, losses_a, _), (b, losses_b, _) = train_to_end(data), train_to_end(data)
    assert same_state(a, b)
    assert losses_a == losses_b
    c, _, _ = train_to_end(data, dataclasses.replace(CONFIG, seed=1))
    assert not same_state(a, c)


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own():
    seen = []

    class Watch:
        def draw(self, batch, generator):
            seen.append(batch[0].tolist())
            return batch

        def __call__(self, net, x):
            return net(x[:, None].float()).square().sum(1)

    list(train(nn.Linear(1, 1), torch.arange(12), Watch(), TrainConfig(steps=6, batch_size=4)))
    first, second = functools.reduce(operator.iadd, seen[:3], []), functools.reduce(operator.iadd, seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_labels_are_dropped_at_the_rate_asked_for():
    x, labels = torch.zeros(20_000, 1), torch.zeros(20_000, dtype=torch.long)
    objective = DiffusionObjective(linear_schedule(), label_dropout=0.1, n_classes=5)
    _, t, eps, label = objective.draw((x, labels), torch.Generator().manual_seed(0))
    assert float((label == 5).double().mean()) == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / 20_000))
    assert set(label.tolist()) == {0, 5}
    assert (int(t.min()), int(t.max())) == (1, 1000)
    assert float(eps.var()) == pytest.approx(1, abs=0.05)


def test_learning_rate_falls_along_half_a_cosine(data):
    config = dataclasses.replace(CONFIG, lr_decay=True)
    run = training._Run(unet(), data, OBJECTIVE, config)
    rates = []
    for _ in range(config.steps):
        run.advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
    want = [config.lr * math.cos(math.pi * k / (2 * config.steps)) ** 2 for k in range(config.steps)]
    assert rates == pytest.approx(want)


# --------------------------------------------------------------------------------------------------------- the average


def test_average_follows_its_recursion_with_warm_up():
    net = nn.Linear(1, 1, bias=False)
    ema, average = EMA(net, 0.6), net.weight.item()
    for n in range(1, 20):
        with torch.no_grad():
            net.weight.add_(n)
        ema.update()
        decay = min(0.6, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * net.weight.item()
        assert ema.average[0].item() == pytest.approx(average, rel=1e-5)


def test_warm_up_forgets_the_start_by_its_formula():
    """Below the limit the start's share is the product of (1 + k) / (10 + k), k = 1..n: 10! (n + 1)! / (n + 10)!."""
    net, n = nn.Linear(1, 1, bias=False), 12
    with torch.no_grad():
        net.weight.fill_(1)
        ema = EMA(net, 0.9999)
        net.weight.zero_()
    for _ in range(n):
        ema.update()
    share = math.factorial(10) * math.factorial(n + 1) / math.factorial(n + 10)
    assert ema.average[0].item() == pytest.approx(share, rel=1e-4)
    ema.decay = 0.0
    ema.update()
    assert ema.average[0].item() == pytest.approx(0, abs=1e-9)


def test_average_is_applied_and_taken_back(data):
    net, _, last = train_to_end(data)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    net.attention.eval()
    modes = [module.training for module in net.modules()]

    def look_and_fail():
        with last.ema.applied() as averaged:
            assert not any(module.training for module in averaged.modules())
            assert same_state(averaged, last.ema.copy_to(unet(1)))
            assert not all(torch.equal(tensor, before[name]) for name, tensor in averaged.state_dict().items())
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        look_and_fail()
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_buffers_are_not_averaged():
    net = nn.Sequential(nn.BatchNorm1d(2))
    ema = EMA(net, 0.5)
    net(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    ema.update()
    copy = ema.copy_to(nn.Sequential(nn.BatchNorm1d(2)))
    assert torch.equal(copy[0].running_mean, net[0].running_mean)
    assert copy[0].num_batches_tracked == 1


def test_heldout_loss_depends_on_the_seed_only(data):
    net = unet().train()
    a, b, c = (heldout_loss(net, OBJECTIVE, data, seed=seed) for seed in (0, 0, 1))
    assert a == b != c
    assert net.training
    g = torch.Generator().manual_seed(0)
    x0, t, eps, label = OBJECTIVE.draw(data, g)
    want = noise_prediction_loss(lambda x, t: net(x, t, label), x0, t, eps, OBJECTIVE.schedule).mean()
    assert a == pytest.approx(want.item(), rel=1e-5)


def test_heldout_loss_is_taken_in_evaluation_mode_batch_by_batch():
    class Squares:
        def draw(self, batch, generator):
            return batch

        def __call__(self, net, x):
            return net(x).square().sum(1)

    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2), nn.Dropout(0.5)).train()
    net[2].eval()
    x = torch.arange(10.0).reshape(5, 2)
    losses = [heldout_loss(net, Squares(), x, batch_size=size) for size in (2, 5, 99)]
    assert [module.training for module in net.modules()] == [True, True, True, False]
    want = net[1](x).square().sum(1).double().mean().item()
    assert losses == pytest.approx([want] * 3, rel=1e-6)
    for options, message in (({"batch_size": 0}, "batch_size is 0"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(ValueError, match=message):
            heldout_loss(net, Squares(), x, **options)


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 11])
def test_a_run_that_was_stopped_ends_with_the_same_bits(data, tmp_path, stop):
    reference, losses, last = train_to_end(data, heldout=data, out=tmp_path / "reference")
    train_until(stop, data, heldout=data, out=tmp_path / "cut")
    resumed, rest, end = train_to_end(data, heldout=data, out=tmp_path / "cut", resume=True)
    assert same_state(reference, resumed)
    assert rest == losses[stop:]
    assert all(torch.equal(a, b) for a, b in zip(last.ema.average, end.ema.average, strict=True))
    assert read_history(tmp_path / "cut")[:2] == read_history(tmp_path / "reference")[:2]
    average = read_average(tmp_path / "cut")
    assert all(torch.equal(tensor, average[name]) for name, tensor in end.ema.state_dict().items())


def saved(out):
    """All tensors of the checkpoint in a folder: weights, average, optimizer, random state, losses."""
    return read_tensors(out / read_json(out / run_files.POINTER)["file"])


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_stops_of_every_kind_change_no_bit_of_the_checkpoint(data, tmp_path):
    train_to_end(data, heldout=data, out=tmp_path / "reference")
    cut = {"heldout": data, "out": tmp_path / "cut"}
    train_to_end(data, dataclasses.replace(CONFIG, steps=2), **cut)  # fewer steps, and later more of them
    steps = train(unet(5), data, OBJECTIVE, CONFIG, resume=True, **cut)  # first weights do not matter any more
    for _ in range(3):
        next(steps)
    torch.rand(7)  # nor does the global random state
    steps.close()
    for step in train(unet(6), data, OBJECTIVE, CONFIG, resume=True, **cut):
        if step.step == 7:
            break
    assert [step.step for step in train(unet(7), data, OBJECTIVE, CONFIG, resume=True, **cut)] == [8, 9, 10, 11, 12]
    assert list(train(unet(8), data, OBJECTIVE, CONFIG, resume=True, **cut)) == []
    assert_same_bits(saved(tmp_path / "cut"), saved(tmp_path / "reference"))
    assert {name.split(".")[0] for name in saved(tmp_path / "cut")} >= {"network", "ema", "adam", "generator"}


def test_resume_without_a_checkpoint_begins(data, tmp_path):
    assert next(train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path / "new", resume=True)).step == 1


def test_bf16_is_for_the_arithmetic_only(data):
    config = dataclasses.replace(CONFIG, precision="bf16")
    net, losses, last = train_to_end(data, config)
    _, exact, _ = train_to_end(data)
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)
    assert {tensor.dtype for tensor in (*net.parameters(), *last.ema.average)} == {torch.float32}


SCRIPT = """
import sys, torch
from hw3utils.learning import training
from hw3utils.learning.networks import UNet
from hw3utils.learning.objectives import DiffusionObjective
from hw3utils.learning.training import TrainConfig, train
from hw3utils.schedules import linear_schedule

def go(out, report=print):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (28, 3, 8, 8), dtype=torch.uint8, generator=g)
    data = pictures, torch.randint(0, 5, (28,), generator=g)
    tiny = dict(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), groups=4, time_width=16)
    net = training.seeded(lambda: UNet(**tiny), 0)
    objective = DiffusionObjective(linear_schedule(50, 1e-3, 0.1))
    config = TrainConfig(steps=40, batch_size=8, lr=1e-3, checkpoint_every=2)
    for step in train(net, data, objective, config, out=out, resume=True):
        report(step.step)
"""

# One process imports torch, once; its children train and are killed. It never computes itself, so that it may fork.
KILLS = (
    SCRIPT
    + """
import itertools, os, random, signal, traceback
from pathlib import Path
import safetensors.torch
from hw3utils.files import read_json, read_tensors
from hw3utils.learning import run_files

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def saved(out):
    return read_tensors(out / read_json(out / run_files.POINTER)["file"])

def progress(out):
    return len(run_files.read_history(out)[0]) if (out / run_files.POINTER).exists() else 0

def quiet(step):
    pass

torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports the half of torch that waits for an optimizer

reference, points, moments = (Path(sys.argv[1]) / name for name in ("reference", "points", "moments"))
assert end(child(lambda: go(reference, quiet))) == 0

# Killed before each call that touches the disk, in turn, through two checkpoints; in the middle where it is a write.
def killed_at(call):
    calls = itertools.count(1)

    def guard(function, half=False):
        def guarded(*arguments, **options):
            if next(calls) == call:
                if half:
                    function(*arguments, **options)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return guarded

    safetensors.torch.save_file = guard(safetensors.torch.save_file, half=True)
    os.fsync, Path.replace, Path.unlink = guard(os.fsync), guard(Path.replace), guard(Path.unlink)
    go(points, quiet)

before = 0
for call in range(1, 18):
    assert end(child(lambda: killed_at(call))) == -signal.SIGKILL, call
    assert progress(points) >= before, call
    before = progress(points)
assert before > 2

# Killed at random moments.
rng, before = random.Random(0), 0
for _ in range(20):
    read, write = os.pipe()
    pid = child(lambda: go(moments, lambda step: os.write(write, b".")))
    os.close(write)
    done = sum(len(os.read(read, 1)) for _ in range(rng.randrange(4)))
    os.kill(pid, signal.SIGKILL)
    assert end(pid) in (-signal.SIGKILL, 0)
    os.close(read)
    # At most the steps since the last checkpoint are lost.
    assert progress(moments) >= min(40, before + done - done % 2), (before, done)
    before = progress(moments)

for out in (points, moments):
    assert end(child(lambda: go(out, quiet))) == 0
    a, b = saved(reference), saved(out)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "checkpoint-00000040.safetensors", "checkpoint.json"]
"""
)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """37 kills: no unreadable checkpoint, nothing lost beyond the interval, no litter, the same bits."""
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_that_was_begun_by_an_earlier_version_goes_on(tmp_path):
    # The folder was written when the network got its present form: 4 steps of what is trained here.
    shutil.copytree(Path(__file__).parent / "stored_run", tmp_path / "old")
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (28, 3, 8, 8), dtype=torch.uint8, generator=g)
    data = pictures, torch.randint(0, 5, (28,), generator=g)
    losses, heldout = {}, {}
    for name in ("old", "new"):
        net = training.seeded(lambda: UNet(widths=(8,), blocks_down=(1,), blocks_up=(1,), groups=4, time_width=8), 0)
        config = TrainConfig(steps=12, batch_size=8, lr=1e-3, checkpoint_every=4, heldout_every=4)
        options = {"heldout": data, "out": tmp_path / name, "resume": name == "old"}
        steps = [step.step for step in train(net, data, OBJECTIVE, config, **options)]
        assert steps == list(range(5 if name == "old" else 1, 13))
        losses[name], heldout[name], _ = read_history(tmp_path / name)
    # The first steps were computed on another machine.
    assert losses["old"] == pytest.approx(losses["new"], rel=1e-4)
    assert [at for at, _ in heldout["old"]] == [4, 8, 12]


def test_two_processes_give_the_losses_of_one(tmp_path):
    script = textwrap.dedent(SCRIPT).replace("steps=40", "steps=6") + (
        "if len(sys.argv) > 2:\n    torch.distributed.init_process_group('gloo')\ngo(sys.argv[1])\n"
        # As the command line does: a process that ends with its group open may abort on the way out.
        "if len(sys.argv) > 2:\n    torch.distributed.destroy_process_group()\n"
    )
    single = subprocess.run([sys.executable, "-c", script, str(tmp_path / "one")], capture_output=True, text=True)
    assert single.returncode == 0, single.stderr
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        env["MASTER_PORT"] = str(probe.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "two"), "ddp"],
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert read_history(tmp_path / "two")[0] == pytest.approx(read_history(tmp_path / "one")[0], rel=1e-5)
    a, b = read_average(tmp_path / "one"), read_average(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_processes_that_do_not_fit_are_refused(data, monkeypatch):
    run = training._Run(unet(), data, OBJECTIVE, CONFIG)
    run.step, run.world = 5, 2

    def other_is_at_0(ends, op):
        assert op == torch.distributed.ReduceOp.MIN
        ends.copy_(torch.minimum(ends, torch.tensor([0, 0])))

    monkeypatch.setattr(torch.distributed, "all_reduce", other_is_at_0)
    with pytest.raises(ValueError, match=r"2 processes .* 0 to 5"):
        run.check_same_step()
    monkeypatch.setattr(training, "process_count", lambda: 3)
    with pytest.raises(ValueError, match=r"8.* 3 processes"):
        training._Run(unet(), data, OBJECTIVE, CONFIG)


def test_a_compiled_network_is_trained_like_the_plain_one(data, monkeypatch):
    """Compilation is replaced by a wrapper, as it would take a minute; what is compiled and how is checked."""
    compiled = []

    def compile(network, mode):
        compiled.append(mode)
        return lambda *args: network(*args)

    monkeypatch.setattr(torch, "compile", compile)
    assert train_to_end(data, compile=True)[1] == train_to_end(data)[1]
    assert compiled == [None]


# ------------------------------------------------------------------------------------------- no step is lost


class Fails(DiffusionObjective):
    """The objective whose draw or loss fails at step 7, the eighth draw (step 4 has one for the held-out loss)."""

    def __init__(self, where):
        super().__init__(OBJECTIVE.schedule)
        self.where, self.draws = where, 0

    def draw(self, batch, generator):
        self.draws += 1
        drawn = super().draw(batch, generator)
        if self.where == "draw" and self.draws == 8:
            raise KeyError("mine")
        return drawn

    def __call__(self, net, *drawn):
        if self.where == "loss" and self.draws == 8 and torch.is_grad_enabled():
            raise KeyError("mine")
        return super().__call__(net, *drawn)


@pytest.mark.parametrize("where", ["draw", "loss", "held-out loss", "caller"])
def test_the_steps_before_an_error_are_saved_and_the_run_goes_on_with_the_same_bits(data, tmp_path, monkeypatch, where):
    train_to_end(data, heldout=data, out=tmp_path / "reference")
    steps = train(unet(), data, Fails(where), CONFIG, heldout=data, out=tmp_path / "cut")
    if where == "held-out loss":
        monkeypatch.setattr(training, "heldout_loss", lambda *_: {}["mine"])

    def listen():
        for step in steps:
            if where == "caller" and step.step == 6:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        listen()
    steps.close()
    monkeypatch.undo()
    assert len(read_history(tmp_path / "cut")[0]) == (4 if where == "held-out loss" else 6)
    if where != "held-out loss":  # its measurement at step 4 is lost
        train_to_end(data, heldout=data, out=tmp_path / "cut", resume=True)
        assert_same_bits(saved(tmp_path / "cut"), saved(tmp_path / "reference"))


def test_a_program_that_fails_with_its_run_open_saves_it(tmp_path):
    script = SCRIPT + "go(sys.argv[1], report=lambda step: 1 / (3 - step))"
    done = subprocess.run(
        [sys.executable, "-c", script.replace("every=2", "every=9"), str(tmp_path)], capture_output=True
    )
    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr
    assert len(read_history(tmp_path)[0]) == 3


def test_a_second_training_in_a_folder_is_refused(data, tmp_path):
    first = train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path)
    second = train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path, resume=True)
    next(first)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        next(second)
    first.close()
    assert next(train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path, resume=True)).step == 2
    late = train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path / "new")  # made before the other one began
    next(train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path / "new"))
    with pytest.raises(ValueError, match="checkpoint"):
        next(late)


def test_a_file_system_without_locks_is_trained_on(data, tmp_path, monkeypatch):
    def unsupported(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(run_files.FileLock, "acquire", unsupported)
    assert next(train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path)).step == 1


def test_only_files_of_a_run_are_deleted(data, tmp_path):
    kept = {"checkpoint-best.safetensors": b"mine", "notes.txt": b"mine"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    train_to_end(data, out=tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert len(list(tmp_path.iterdir())) == len(kept) + 3


# ---------------------------------------------------------------------------------------------- dtypes, tied weights


class Tied(nn.Sequential):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
        self[2].weight = self[0].weight

    def forward(self, x, t):
        return super().forward(x)


def test_tied_weights_are_averaged_saved_and_resumed(tmp_path):
    config, x = TrainConfig(steps=6, batch_size=16, lr=1e-2, checkpoint_every=2), torch.ones(64, 4)
    *_, last = train(training.seeded(Tied, 0), x, OBJECTIVE, config, out=tmp_path / "reference")
    copy = last.ema.copy_to(Tied())
    assert torch.equal(copy[0].weight, last.ema.average[0])
    assert copy[2].weight is copy[0].weight
    assert all(torch.equal(tensor, copy[0].weight) for tensor in read_average(tmp_path / "reference").values())
    for seed, steps in ((0, 3), (1, 6)):  # a resumed run does not depend on its first weights
        part = dataclasses.replace(config, steps=steps)
        list(train(training.seeded(Tied, seed), x, OBJECTIVE, part, out=tmp_path / "cut", resume=True))
    assert_same_bits(saved(tmp_path / "cut"), saved(tmp_path / "reference"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_any_dtype_are_trained_with_an_average_of_at_least_fp32(data, tmp_path, dtype):
    net = unet().to(dtype)
    config = dataclasses.replace(CONFIG, steps=3, checkpoint_every=2, heldout_every=2)
    *_, last = train(net, data, OBJECTIVE, config, heldout=data, out=tmp_path)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert {p.dtype for p in last.ema.average} == {torch.promote_types(dtype, torch.float32)}
    again = unet(1).to(dtype)
    *_, end = train(again, data, OBJECTIVE, dataclasses.replace(config, steps=4), out=tmp_path, resume=True)
    assert (end.step, math.isfinite(end.loss)) == (4, True)


def test_the_average_of_half_weights_moves():
    net = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(net.weight, 1.0)
    ema = EMA(net, 0.999)
    ema.load({"weight": net.weight.detach()}, 10_000)  # past the warm-up
    nn.init.constant_(net.weight, 1.25)
    for _ in range(2000):
        ema.update()
    assert float(ema.average[0]) == pytest.approx(1.25 - 0.25 * 0.999**2000, abs=1e-3)


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(data, tmp_path):
    class Breaks(DiffusionObjective):
        def __call__(self, net, x0, t, eps, *label):
            loss = super().__call__(net, x0, t, eps, *label)
            return loss * (math.nan if self.draws > 7 else 1)

        def draw(self, batch, generator):
            self.draws = getattr(self, "draws", 0) + 1
            return super().draw(batch, generator)

    with pytest.raises(FloatingPointError, match=r"nan at step 8.*step 5"):
        list(train(unet(), data, Breaks(OBJECTIVE.schedule), CONFIG, out=tmp_path))
    assert len(read_history(tmp_path)[0]) == 5


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite loss whose gradient is not: the step that it makes must not replace a good checkpoint."""

    class Breaks:
        def draw(self, batch, generator):
            return batch

        def __call__(self, net, x):
            loss = (net.weight * x).square().sum(1)
            steep = (net.weight - net.weight.detach()).sqrt().sum()
            return loss + steep if bool((x == 3).any()) else loss

    config = TrainConfig(steps=8, batch_size=1, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"finite after step (\d+)") as error:
        list(train(nn.Linear(1, 1), torch.arange(8.0)[:, None], Breaks(), config, out=tmp_path))
    losses = read_history(tmp_path)[0]
    assert f"after step {len(losses) + 1}:" in str(error.value)
    assert all(tensor.isfinite().all() for tensor in read_average(tmp_path).values())


@pytest.mark.parametrize("fails", ["tensors", "tensors, in the library", "pointer", "on closing"])
def test_a_disk_that_fills_up_anywhere_leaves_a_checkpoint_to_go_on_from(data, tmp_path, monkeypatch, fails):
    train_to_end(data, out=tmp_path / "reference")
    cut = tmp_path / "cut"
    steps = train(unet(), data, OBJECTIVE, CONFIG, out=cut)
    for step in steps:
        if step.step == 6:
            break
    before = {path.name: path.read_bytes() for path in cut.iterdir()}
    good = os.fsync
    left = [1 if fails == "pointer" else 0]

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        good(*arguments)

    def full_library(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        if fails == "tensors, in the library":
            patch.setattr(safetensors.torch, "save_file", full_library)
        else:
            patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            steps.close() if fails == "on closing" else list(steps)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == before
    train_to_end(data, out=cut, resume=True)
    assert_same_bits(saved(cut), saved(tmp_path / "reference"))


def test_a_folder_that_cannot_be_written_is_found_out_at_once(data, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file/deep"):
        train(unet(), data, OBJECTIVE, CONFIG, out=tmp_path / "file" / "deep")


def checkpoint(data, folder):
    train_to_end(data, dataclasses.replace(CONFIG, steps=5), out=folder)
    return next(folder.glob("*.safetensors"))


def pointer(out, **changes):
    path = out / run_files.POINTER
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors(out, change):
    """Change the tensors of a checkpoint and sign it anew, so that only their content is wrong."""
    path = out / read_json(out / run_files.POINTER)["file"]
    changed = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    change(changed)
    write_tensors(path, changed)
    pointer(out, sha256=file_sha256(path))


def file(out, change):
    path = next(out.glob("*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(change(content))


def pickled(out):
    torch.save({"a": 1}, next(out.glob("*.safetensors")))
    pointer(out, sha256=file_sha256(next(out.glob("*.safetensors"))))


DAMAGE = {
    "cut off": (lambda out: file(out, lambda content: content[: len(content) // 2]), "safetensors"),
    "empty": (lambda out: file(out, lambda content: b""), "safetensors"),
    "one bit": (lambda out: file(out, lambda content: content[:-1] + bytes([content[-1] ^ 1])), "SHA-256"),
    "a pickle": (pickled, "pickles"),
    "no tensors": (lambda out: next(out.glob("*.safetensors")).unlink(), "no file"),
    "pointer cut off": (lambda out: (out / run_files.POINTER).write_text('{"file": "x"'), "JSON"),
    "pointer of bytes": (lambda out: (out / run_files.POINTER).write_bytes(b"\xff\xfe"), "JSON"),
    "pointer a list": (lambda out: (out / run_files.POINTER).write_text("[]"), "list"),
    "pointer empty": (lambda out: (out / run_files.POINTER).write_text("{}"), "config, file, samples, seconds"),
    "config a list": (lambda out: pointer(out, config=[1]), "config"),
    "step a word": (lambda out: pointer(out, step="five"), "step in .* 'five'"),
    "step another": (lambda out: pointer(out, step=4), r"losses.*\(5,\).*\(4,\)"),
    "seconds a word": (lambda out: pointer(out, seconds="long"), "seconds in .* 'long'"),
    "a path outside": (lambda out: pointer(out, file="../other.safetensors"), "no file"),
    "weight lacking": (lambda out: tensors(out, lambda t: t.pop("network.head.bias")), "head.bias"),
    "weight too many": (lambda out: tensors(out, lambda t: t.update({"network.x": torch.ones(1)})), " x "),
    "weight of another shape": (
        lambda out: tensors(out, lambda t: t.update({"network.head.bias": torch.ones(4)})),
        r"head.bias.*\(4,\).*\(3,\)",
    ),
    "weight not finite": (
        lambda out: tensors(out, lambda t: t["network.head.bias"].fill_(math.nan)),
        "head.bias.*finite",
    ),
    "average lacking": (lambda out: tensors(out, lambda t: t.pop("ema.head.bias")), r"\(average\).*head.bias"),
    "moment lacking": (lambda out: tensors(out, lambda t: t.pop("adam.0.exp_avg")), r"\(optimizer\).*0.exp_avg"),
    "moment of nothing": (
        lambda out: tensors(out, lambda t: t.update({"adam.999.step": torch.ones(())})),
        r"\(optimizer\).*999.step",
    ),
    "no random state": (lambda out: tensors(out, lambda t: t.pop("generator")), "device"),
    "random state of CUDA": (
        lambda out: tensors(out, lambda t: t.update(generator=torch.zeros(16, dtype=torch.uint8))),
        "device .*cpu",
    ),
    "no losses": (lambda out: tensors(out, lambda t: t.pop("losses")), r"losses.*\(0,\)"),
}


@pytest.fixture(scope="module")
def at_five(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("at five")
    checkpoint(data, folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_a_sentence_and_changes_nothing(data, at_five, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(at_five, out)
    harm, message = DAMAGE[damage]
    harm(out)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    net = unet(3)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        next(train(net, data, OBJECTIVE, CONFIG, out=out, resume=True))
    assert "\n" not in str(error.value)
    assert same_state(net, unet(3))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1.0}, "lr.*0.001.*1.0"),
        ({"seed": 3}, "seed.*0.*3"),
        ({"batch_size": 4}, "batch_size.*8.*4"),
        ({"ema_decay": 0.5}, "ema_decay.*0.9999.*0.5"),
        ({"precision": "bf16"}, "precision.*fp32.*bf16"),
        ({"lr_decay": True}, "lr_decay.*False.*True|steps.*5.*12"),
        ({"steps": 4}, "5.*4"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(data, at_five, change, message):
    with pytest.raises(ValueError, match=message):
        train_to_end(data, dataclasses.replace(CONFIG, **change), out=at_five, resume=True)


def test_a_checkpoint_of_other_data_is_refused(data, at_five):
    with pytest.raises(ValueError, match=r"28 .* 20"):
        train_to_end(tuple(tensor[:20] for tensor in data), out=at_five, resume=True)
    with pytest.raises(ValueError, match="other data"):
        train_to_end(tuple(tensor.flip(0) for tensor in data), out=at_five, resume=True)


def test_what_train_refuses(data, tmp_path):
    checkpoint(data, tmp_path)
    for options, message in (
        ({"out": tmp_path}, "checkpoint"),
        ({"resume": True}, "out"),
        ({"config": dataclasses.replace(CONFIG, batch_size=64)}, "64 .* 28"),
        ({"data": (data[0], data[1][:3])}, r"\[28, 3\]"),
        ({"data": ()}, r"\[\]"),
        ({"data": (data[0][:0], data[1][:0])}, r"\[0, 0\]"),
        ({"data": (data[0].numpy(), data[1])}, "ndarray"),
        ({"data": torch.tensor(3.0)}, "Tensor"),
    ):
        arguments = {"data": data, "config": CONFIG, **options}
        with pytest.raises(ValueError, match=message):
            train(unet(), arguments.pop("data"), OBJECTIVE, arguments.pop("config"), **arguments)
    with pytest.raises(ValueError, match="Identity"):
        train(nn.Identity(), data, OBJECTIVE, CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"steps": True}, "steps is True"),
        ({"lr": "2e-4"}, "lr is '2e-4'"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr_decay": "no"}, "lr_decay is 'no'"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_what_a_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_a_config_holds_plain_numbers(data, tmp_path):
    config = dataclasses.replace(CONFIG, steps=np.int64(1), lr=np.float32(0.5), seed=np.uint8(3), ema_decay=0)
    assert [type(v) for v in (config.steps, config.lr, config.seed, config.ema_decay)] == [int, float, int, float]
    train_to_end(data, config, out=tmp_path)
    assert read_json(tmp_path / run_files.POINTER)["config"] == dataclasses.asdict(config)


@pytest.mark.parametrize("name", ["tpu", "meta", "", "cuda:99", None])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        devices.resolve_device(name)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_reused_without_page_faults():
    code = """if True:
        import resource, torch
        from hw3utils.devices import reuse_freed_memory
        for _ in range(2):
            for _ in range(3):  # 160 MB at a time, as the activations of a step
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                blocks = [torch.ones(1 << 21) for _ in range(20)]
                del blocks
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, reuse_freed_memory())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (faults, supported), (after, _) = (line.split() for line in done.stdout.splitlines())
    assert supported == "False" or int(after) < int(faults)


def test_known_devices():
    assert devices.resolve_device("cpu") == torch.device("cpu")
    assert devices.resolve_device().type in ("cpu", "cuda", "mps")


def test_a_seeded_network_leaves_the_global_random_state():
    before = torch.get_rng_state()
    a, b, c = unet(1), unet(1), unet(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(a, b)
    assert not same_state(a, c)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, "half"])
def test_label_dropout_is_a_share(share):
    with pytest.raises(ValueError, match="label_dropout"):
        DiffusionObjective(linear_schedule(), label_dropout=share)


def test_fit_leaves_the_averaged_weights(data):
    network, other = unet(), unet()
    fit(network, data, OBJECTIVE, CONFIG)
    *_, last = train(other, data, OBJECTIVE, CONFIG)
    assert not same_state(network, other)
    last.ema.copy_to(other)
    assert same_state(network, other)
