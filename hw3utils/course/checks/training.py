"""Checks of the training exercises: one step of DDPM's training (02), and a run of score matching with noise (05)."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hw3utils.course.checks.building_blocks import (
    HOMEWORK,
    HOMEWORK_SIGMAS,
    as_tensor,
    fresh_generator,
    on_copies,
    relative_error,
    require,
)
from hw3utils.schedules import NoiseSchedule, linear_schedule


class _Watched(nn.Module):
    """A noise predictor with two parameters, which notes its arguments."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(0.5 + 0.2 * torch.randn(3, generator=generator))
        self.b = nn.Parameter(0.2 * torch.randn(3, generator=generator))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x.detach().clone(), t.clone()))
        return self.a * x + self.b * (t / 50).to(x.dtype)[:, None]


def check_training_step(step: Callable[..., Tensor], *, generator: torch.Generator | None = None) -> float:
    """Judge Q1.P3: step(network, optimizer, average, x0, schedule, generator, decay) -> the loss before the step.

    network(x_t, t) predicts noise; `average` has a tensor for each of its parameters, to be moved in place after the
    optimizer's step: average <- decay average + (1 - decay) parameter.

    Returns:
        The largest relative error of loss, weights and averages over a few steps.
    """
    generator = fresh_generator(generator)
    step = on_copies(step, "the network", "the optimizer", "average", "x0", "schedule", "generator", "decay")
    schedule, decay = linear_schedule(50), 0.8
    network = _Watched(generator)
    twin = copy.deepcopy(network)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.02) for model in (network, twin)]
    average = [weight.detach() + 1 for weight in network.parameters()]
    drawn = torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
    times, noises, worst = [], [], 0.0
    for k in range(6):
        x0 = torch.randn(512, 3, generator=generator)
        wanted = [mean.clone() for mean in average]
        held = [weight.detach().clone() for weight in network.parameters()]
        loss = as_tensor(step(network, optimizers[0], average, x0, schedule, drawn, decay), "the loss", ())
        require(len(network.seen) == k + 1, f"the network was called {len(network.seen) - k} times in one step.")
        eps = _noise_of(network.seen[-1], x0, schedule)
        times.append(network.seen[-1][1])
        noises.append(eps)
        expected = (twin(*network.seen[-1]) - eps).square().mean()
        error = abs(float(loss / expected.detach()) - 1)
        require(error < 1e-3, "the loss is not the mean squared error of the noise that was added.")
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        moved = [weight.detach() for weight in network.parameters()]
        require(
            any(not torch.equal(a, b) for a, b in zip(moved, held, strict=True)), "the step did not change the weights."
        )
        errors = [relative_error(a - c, b.detach() - c) for a, b, c in zip(moved, twin.parameters(), held, strict=True)]
        require(
            max(errors) < 1e-2, "the weights moved, but not by this step's gradient: is that of the last step cleared?"
        )
        wanted = [decay * mean + (1 - decay) * weight for mean, weight in zip(wanted, moved, strict=True)]
        off = max(relative_error(a, b) for a, b in zip(average, wanted, strict=True))
        require(off < 1e-4, "the average did not move by 1 - decay of the way to the weights that the step has made.")
        worst = max(worst, error, off)
    _judge_draws(torch.cat(times), torch.cat(noises), schedule.T)
    return worst


def _noise_of(seen: tuple[Tensor, Tensor], x0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The noise in the network's input x_t; the times are checked first."""
    x_t, t = seen
    shape = tuple(t.shape)
    require(
        shape == (len(x0),), f"t has shape {shape}: each sample of the batch needs a time of its own, ({len(x0)},)."
    )
    require(t.dtype == torch.int64, f"t has dtype {t.dtype}; time steps are int64.")
    require(bool(((t >= 1) & (t <= schedule.T)).all()), "a time is not in 1..T: at t = 0 there is no noise to predict.")
    signal, noise = (table[t].to(x0.dtype)[:, None] for table in (schedule.signal, schedule.noise))
    return (x_t - signal * x0) / noise


def _judge_draws(t: Tensor, eps: Tensor, T: int) -> None:
    """Times must be uniform over 1..T, noises standard normal and different for each sample."""
    require(bool((t == 1).any() and (t == T).any()), "some times between 1 and T, both included, are never drawn.")
    frequency = torch.bincount(t, minlength=T + 1)[1:] / len(t)
    require(float((frequency * T - 1).abs().max()) < 0.8, "the times are not drawn evenly.")
    limit = 5 * (2 / eps.numel()) ** 0.5
    require(float(eps.mean().abs()) < limit, "the noise in x_t does not have mean 0.")
    require(abs(float(eps.square().mean()) - 1) < 3 * limit, "the noise in x_t does not have variance 1.")
    require(abs(float(eps.pow(4).mean()) - 3) < 0.5, "the noise in x_t is not normal.")
    require(
        len(torch.unique(eps[:, 0])) > 0.9 * len(eps),
        "samples share their noise; draw one for each, anew in each step.",
    )


class _Levels(nn.Module):
    """A score -c_k x for each noise level, which notes its arguments."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.c = nn.ParameterDict()
        self.start = start
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.shapes: set[tuple[int, ...]] = set()
        for sigma in HOMEWORK_SIGMAS:
            self.c[str(int(sigma))] = nn.Parameter(torch.tensor(start / (1 + sigma**2)))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        self.shapes.add(tuple(level.shape))
        level = level.reshape(-1).expand(len(x))
        self.seen.append((x.detach().clone(), level.detach().clone()))
        c = sum(weight * (level == float(name)) for name, weight in self.c.items())
        return -c[:, None] * x


def check_score_training(
    run: Callable[[nn.Module, Tensor, int, torch.Generator], object], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q2.P2: run(network, points, steps, generator) trains by denoising score matching as the homework says.

    network(x, sigma) is a score; points are (N, 2). Levels, batch size and rate are read off what the run does.

    Returns:
        The largest relative error of the size of the first step against the learning rate.
    """
    generator = fresh_generator(generator)
    want = HOMEWORK["Q2.P2"]
    run = on_copies(run, "the network", "points", "steps", "generator")
    seed = int(torch.randint(2**31, (), generator=generator))
    points = torch.randn(2000, 2, generator=generator)
    one, before = _Levels(2.0), _Levels(2.0)
    run(one, points, 1, torch.Generator().manual_seed(seed))
    for shape in one.shapes:
        require(len(shape) < 2, f"sigma has shape {shape}: give the network one number, or one for each point.")
    size = max(float((one.c[name] - before.c[name]).detach().abs()) for name in one.c)
    error = abs(size / want["lr"] - 1)
    require(size > 0, "after one step the weights are what they were.")
    require(
        error < 0.05,
        f"the first step of Adam moves a weight by the learning rate, here {size:.2g}: not the homework's.",
    )
    # From twice and from half of the best value the weights must move towards it: its score is that of p_sigma.
    for start in (2.0, 0.5):
        network = _Levels(start)
        run(network, points, 120, torch.Generator().manual_seed(seed + 1))
        _judge_levels(network, int(want["batch_size"]), 120)
        for name, weight in network.c.items():
            best = 1 / (1 + float(name) ** 2)
            way = (float(weight.detach()) / best - 1) / (start - 1)
            require(
                way < 0.95, f"at sigma = {name} the learned score does not come nearer to that of the noisy points."
            )
    still = torch.tensor([[2.0, -1.0]]).repeat(500, 1)
    network = _Levels(1.0)
    run(network, still, 50, torch.Generator().manual_seed(seed + 2))
    z = torch.cat([(x - still[0]) / level[:, None] for x, level in network.seen])
    require(
        abs(float(z.square().mean()) - 1) < 0.1, "what is added to a point does not have the standard deviation sigma."
    )
    require(abs(float(z.pow(4).mean()) - 3) < 0.5, "what is added to a point is not normal.")
    return error


def _judge_levels(network: _Levels, batch_size: int, steps: int) -> None:
    """One call per step with a full batch, and the homework's three levels, about equally often."""
    calls, rows = len(network.seen), {len(x) for x, _ in network.seen}
    require(calls == steps, f"the network was called {calls} times in {steps} steps, expected once a step.")
    require(
        rows == {batch_size}, f"a step sees {sorted(rows)[0]} points; look at the batch size that the homework names."
    )
    levels = torch.cat([level for _, level in network.seen])
    found = sorted(set(levels.tolist()))
    require(found == list(HOMEWORK_SIGMAS), f"the noise levels are {found[:5]}; the homework names three others.")
    least = min(float((levels == level).float().mean()) for level in HOMEWORK_SIGMAS)
    require(least > 0.2, "one of the noise levels is drawn far more rarely than the others.")
