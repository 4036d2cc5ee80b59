"""The checks of the training exercises: right answers in several styles pass, each known mistake is named."""

import pytest
import torch
from remote_checks import way  # noqa: F401

from hw3utils.course import checks
from hw3utils.losses import denoising_score_matching, noise_prediction_loss


def step(network, optimizer, average, x0, schedule, generator, decay, **change):
    """The right step, with a switch for each mistake."""
    low, high = change.get("times", (1, schedule.T))
    n = 1 if change.get("one_time") else len(x0)
    t = torch.randint(low, high + 1, (n,), generator=generator).expand(len(x0)).contiguous()
    eps = change.get("draw", torch.randn)(x0.shape, generator=generator)
    noise = schedule.noise[t] ** change.get("power", 1)
    x_t = schedule.signal[t].float()[:, None] * x0 + noise.float()[:, None] * eps
    loss = (network(x_t, t) - change.get("target", eps)).square()
    loss = loss.sum() if change.get("summed") else loss.mean()
    if not change.get("kept_gradient"):
        optimizer.zero_grad()
    if not change.get("no_backward"):
        loss.backward()
    old = [weight.detach().clone() for weight in network.parameters()]
    optimizer.step()
    new = old if change.get("before") else [weight.detach() for weight in network.parameters()]
    part = decay if change.get("swapped") else 1 - decay
    for mean, weight in zip(average, new, strict=True):
        mean += change.get("moves", 1) * part * (weight - mean)
    return loss.detach()


def short_step(network, optimizer, average, x0, schedule, generator, decay):
    eps = torch.empty_like(x0).normal_(generator=generator)
    t = 1 + (torch.rand(len(x0), generator=generator) * schedule.T).long()
    optimizer.zero_grad(set_to_none=False)
    loss = noise_prediction_loss(network, x0, t, eps, schedule).mean()
    loss.backward()
    optimizer.step()
    torch._foreach_lerp_(average, [weight.detach() for weight in network.parameters()], 1 - decay)
    return loss.item()


def changed(**change):
    return lambda *arguments: step(*arguments, **change)


def same_noise(shape, generator):
    return torch.randn(1, *shape[1:], generator=generator).expand(shape)


@pytest.mark.parametrize("right", [step, short_step])
def test_right_steps_pass(right):
    for seed in range(3):
        assert checks.check_training_step(right, generator=torch.Generator().manual_seed(seed)) < 1e-5


WRONG_STEPS = {
    "time off by one": (changed(times=(0, 49)), "not in 1..T"),
    "the last time left out": (changed(times=(1, 49)), "never drawn"),
    "one time for all": (changed(one_time=True), "never drawn|evenly"),
    "rand for randn": (changed(draw=torch.rand), "mean 0"),
    "a noise for all": (changed(draw=same_noise), "share their noise|variance|normal|mean"),
    "variance for standard deviation": (changed(power=2), "mean squared error"),
    "sum for mean": (changed(summed=True), "mean squared error"),
    "gradient not cleared": (changed(kept_gradient=True), "cleared"),
    "no backward": (changed(no_backward=True), "did not change"),
    "average before the step": (changed(before=True), "average"),
    "decay the other way round": (changed(swapped=True), "average"),
    "average never moved": (changed(moves=0), "average"),
    "the data predicted": (changed(target=0.0), "mean squared error"),
    "x0 changed": (lambda *a: step(*a[:3], a[3].mul_(1.01), *a[4:]), "x0 itself"),
    "the network called twice": (lambda n, *a: (n(a[2], torch.ones(len(a[2])).long()), step(n, *a))[1], "called 2"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_STEPS.values(), ids=WRONG_STEPS)
def test_wrong_steps_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_training_step(wrong, generator=torch.Generator().manual_seed(0))


def run(network, points, steps, generator, **change):
    """The right run, with a switch for each mistake."""
    optimizer = change.get("optimizer", torch.optim.Adam)(network.parameters(), lr=change.get("lr", 1e-3))
    levels = torch.tensor(change.get("levels", [1.0, 3.0, 7.0]))
    size = change.get("batch_size", 128)
    for _ in range(steps):
        x = points[torch.randint(len(points), (size,), generator=generator)]
        sigma = levels[torch.randint(len(levels), (size,), generator=generator)]
        z = change.get("draw", torch.randn)(x.shape, generator=generator)
        level = sigma[:, None]
        score = network(x + level ** change.get("noise_power", 1) * z, sigma)
        target = change.get("sign", -1) * z / level ** change.get("target_power", 1)
        loss = (level ** change.get("weight_power", 2) * (score - target).square()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def run_by_level(network, points, steps, generator):
    """One level a batch, in turn, with the loss of the package."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for k in range(steps):
        sigma = (1.0, 3.0, 7.0)[k % 3]
        x = points[torch.randperm(len(points), generator=generator)[:128]]
        loss = sigma**2 * denoising_score_matching(network, x, sigma, generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def changed_run(**change):
    return lambda *arguments: run(*arguments, **change)


@pytest.mark.parametrize("right", [run, run_by_level, changed_run(weight_power=0)])
def test_right_runs_pass(right):
    for seed in range(2):
        assert checks.check_score_training(right, generator=torch.Generator().manual_seed(seed)) < 0.01


class Column(torch.nn.Module):
    """A network that is given its levels as a column."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, sigma):
        return self.network(x, sigma[:, None])


WRONG_RUNS = {
    "another rate": (changed_run(lr=2e-4), "not the homework's"),
    "SGD": (changed_run(optimizer=torch.optim.SGD), "not the homework's"),
    "another batch": (changed_run(batch_size=64), "sees 64 points"),
    "other levels": (changed_run(levels=[1.0, 3.0, 5.0]), "noise levels|KeyError"),
    "one level only": (changed_run(levels=[3.0]), "noise levels|what they were"),
    "sigma for sigma^2": (changed_run(target_power=0), "come nearer"),
    "sign flipped": (changed_run(sign=1), "come nearer"),
    "rand for randn": (changed_run(draw=torch.rand), "come nearer|standard deviation|not normal"),
    "noise of another size": (changed_run(noise_power=2), "come nearer|standard deviation"),
    "no step": (lambda network, points, steps, generator: None, "what they were"),
    "levels as a column": (
        lambda network, *rest: run(Column(network), *rest),
        r"sigma has shape \(128, 1\)",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_wrong_runs_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_score_training(wrong, generator=torch.Generator().manual_seed(0))
