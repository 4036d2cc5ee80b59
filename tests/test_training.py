"""The training loop: its steps by hand, its average by recursion, and resumes that end with the same bits."""

import dataclasses
import functools
import math
import operator
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from hw3utils import training
from hw3utils.losses import noise_prediction_loss
from hw3utils.networks import UNet
from hw3utils.schedules import linear_schedule
from hw3utils.training import EMA, DiffusionObjective, TrainConfig, heldout_loss, read_average, read_history, train

TINY = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}
CONFIG = TrainConfig(steps=12, batch_size=8, lr=1e-3, checkpoint_every=5, heldout_every=4)
OBJECTIVE = DiffusionObjective(linear_schedule(50, 1e-3, 0.1))


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (28, 3, 8, 8), dtype=torch.uint8, generator=g)
    return pictures, torch.randint(0, 5, (28,), generator=g)


def network(seed=0):
    return training.seeded(lambda: UNet(**TINY), seed)


def whole(data, config=CONFIG, **options):
    """Train to the end; network, losses and the last step."""
    net, losses, step = network(), [], None
    for step in train(net, data, OBJECTIVE, config, **options):
        losses.append(step.loss)
    return net, losses, step


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ------------------------------------------------------------------------------------------------------------ the step


def test_steps_are_adam_on_the_objective_with_the_runs_own_draws(data):
    net, losses, _ = whole(data)
    by_hand = network()
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
    (a, losses_a, _), (b, losses_b, _) = whole(data), whole(data)
    assert same(a, b)
    assert losses_a == losses_b
    c, _, _ = whole(data, dataclasses.replace(CONFIG, seed=1))
    assert not same(a, c)


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
    run = training._Run(network(), data, OBJECTIVE, config, capture=False)
    rates = []
    for _ in range(config.steps):
        run.advance(1)
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


def test_average_is_applied_and_taken_back(data):
    net, _, last = whole(data)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    with last.ema.applied() as averaged:
        assert not averaged.training
        assert same(averaged, last.ema.copy_to(network(1)))
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_heldout_loss_depends_on_the_seed_only(data):
    net = network().train()
    a, b, c = (heldout_loss(net, OBJECTIVE, data, seed=seed) for seed in (0, 0, 1))
    assert a == b != c
    assert net.training
    g = torch.Generator().manual_seed(0)
    x0, t, eps, label = OBJECTIVE.draw(data, g)
    want = noise_prediction_loss(lambda x, t: net(x, t, label), x0, t, eps, OBJECTIVE.schedule).mean()
    assert a == pytest.approx(want.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 11])
def test_a_run_that_was_stopped_ends_with_the_same_bits(data, tmp_path, stop):
    reference, losses, last = whole(data, heldout=data, out=tmp_path / "whole")
    for step in train(network(), data, OBJECTIVE, CONFIG, heldout=data, out=tmp_path / "cut"):
        if step.step == stop:
            break
    del step
    resumed, rest, end = whole(data, heldout=data, out=tmp_path / "cut", resume=True)
    assert same(reference, resumed)
    assert rest == losses[stop:]
    assert all(torch.equal(a, b) for a, b in zip(last.ema.average, end.ema.average, strict=True))
    assert read_history(tmp_path / "cut")[:2] == read_history(tmp_path / "whole")[:2]
    average = read_average(tmp_path / "cut")
    assert all(torch.equal(tensor, average[name]) for name, tensor in end.ema.state_dict().items())


SCRIPT = """
import sys, torch
from hw3utils import training
from hw3utils.networks import UNet
from hw3utils.schedules import linear_schedule
from hw3utils.training import DiffusionObjective, TrainConfig, train
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
pictures = torch.randint(0, 256, (28, 3, 8, 8), dtype=torch.uint8, generator=g)
data = pictures, torch.randint(0, 5, (28,), generator=g)
net = training.seeded(lambda: UNet(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), groups=4, time_width=16), 0)
objective = DiffusionObjective(linear_schedule(50, 1e-3, 0.1))
config = TrainConfig(steps=40, batch_size=8, lr=1e-3, checkpoint_every=2)
for step in train(net, data, objective, config, out=sys.argv[1], resume=True):
    print(step.step, flush=True)
"""


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    def start(out):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE, text=True)

    plain = start(tmp_path / "whole")
    assert plain.communicate()[0].split()[-1] == "40"
    reached = 0
    for kill_at in (3, 14, 29):
        process = start(tmp_path / "killed")
        for line in process.stdout:
            first = reached if reached else int(line)
            reached = int(line)
            if reached >= kill_at:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait()
        process.stdout.close()
        assert first >= 1
    last = start(tmp_path / "killed")
    steps = [int(line) for line in last.communicate()[0].split()]
    assert steps[0] >= reached - 1
    assert steps[-1] == 40
    a, b = read_average(tmp_path / "whole"), read_average(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert read_history(tmp_path / "whole")[0] == read_history(tmp_path / "killed")[0]


def test_two_processes_give_the_losses_of_one(tmp_path):
    script = textwrap.dedent(SCRIPT).replace("steps=40", "steps=6")
    script = script.replace(
        "config =", "torch.distributed.init_process_group('gloo') if len(sys.argv) > 2 else None\nconfig ="
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


def test_bursts_of_a_captured_run_are_the_plain_steps(data, tmp_path, monkeypatch):
    """Capture needs CUDA; here the graph is replaced by the step that it would replay, everything around it stays."""
    _, losses, _ = whole(data, heldout=data)
    monkeypatch.setattr(training._Run, "_captured_step", training._Run._one_step)
    plain_init = training._Run.__init__

    def init(self, net, data, objective, config, capture):
        plain_init(self, net, data, objective, config, False)
        self.capture = True

    monkeypatch.setattr(training._Run, "__init__", init)
    _net, burst_losses, last = whole(data, heldout=data, out=tmp_path)
    assert burst_losses == losses
    assert last.step == CONFIG.steps
    assert [step for step, _ in read_history(tmp_path)[1]] == [4, 8, 12]


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(data, tmp_path):
    class Breaks(DiffusionObjective):
        def __call__(self, net, x0, t, eps, *label):
            loss = super().__call__(net, x0, t, eps, *label)
            return loss * (math.nan if self.draws > 7 else 1)

        def draw(self, batch, generator):
            self.draws = getattr(self, "draws", 0) + 1
            return super().draw(batch, generator)

    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 8.*step 5.*untouched"):
        list(train(network(), data, Breaks(OBJECTIVE.schedule), CONFIG, out=tmp_path))
    assert len(read_history(tmp_path)[0]) == 5


def test_a_full_disk_leaves_the_last_checkpoint(data, tmp_path, monkeypatch):
    steps = train(network(), data, OBJECTIVE, CONFIG, out=tmp_path)
    for step in steps:
        if step.step == 6:
            break

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*free some space"):
            for _ in steps:
                pass
    assert len(read_history(tmp_path)[0]) == 5
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def checkpoint(data, folder):
    whole(data, dataclasses.replace(CONFIG, steps=5), out=folder)
    return next(folder.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["truncate", "pickle", "flip", "pointer", "missing"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(data, tmp_path, damage):
    path = checkpoint(data, tmp_path)
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "pickle":
        torch.save({"a": 1}, path)
    elif damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "pointer":
        (tmp_path / training.POINTER).write_text('{"file": "x"')
    else:
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"safetensors|SHA-256|JSON|no file"):
        whole(data, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 1.0}, "lr = 0.001"), ({"seed": 3}, "seed = 0"), ({"batch_size": 4}, "batch_size = 8")],
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(data, tmp_path, change, message):
    checkpoint(data, tmp_path)
    with pytest.raises(ValueError, match=message):
        whole(data, dataclasses.replace(CONFIG, **change), out=tmp_path, resume=True)


def test_what_train_refuses(data, tmp_path):
    checkpoint(data, tmp_path)
    for options, message in (
        ({"out": tmp_path}, "already holds a checkpoint"),
        ({"resume": True}, "needs the folder"),
        ({"capture": True}, "CUDA"),
        ({"config": dataclasses.replace(CONFIG, batch_size=64)}, "batch_size is 64 but there are 28"),
        ({"data": (data[0], data[1][:3])}, r"lengths \[28, 3\]"),
        ({"data": ()}, r"lengths \[\]"),
    ):
        arguments = {"data": data, "config": CONFIG, **options}
        with pytest.raises(ValueError, match=message):
            train(network(), arguments.pop("data"), OBJECTIVE, arguments.pop("config"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
    ],
)
def test_what_a_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="'tpu'"):
        training.resolve_device("tpu")
    assert training.resolve_device("cpu") == torch.device("cpu")
