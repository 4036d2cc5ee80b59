"""The call of a check with tensors on a GPU: what stops there is noted and named, and nothing else changes."""

import contextlib
import math
import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from hw3utils.course import Report, checks, other_devices, workshop
from hw3utils.diffusion import perturb_input


@pytest.fixture(autouse=True)
def session(monkeypatch):
    """A notebook's session on a machine without accelerator; its names."""
    names = vars(cells := types.ModuleType("__main__"))
    monkeypatch.setitem(sys.modules, "__main__", cells)
    for name in ("_passed", "_refused", "_stops", "_notes"):
        monkeypatch.setattr(workshop, name, [])
    monkeypatch.setattr(other_devices, "accelerator", lambda: None)
    return names


def notes_of(check, function, **options):
    check(function, **options)
    return workshop.notes()


# ------------------------------------------------------------------------------------------------ what is found


def ddpm(eps_model, x, schedule, generator, *, noise, times=lambda n, t, x: torch.full((n,), t, device=x.device)):
    for t in range(schedule.T, 0, -1):
        beta, bar = schedule.beta[t].item(), schedule.alpha_bar[t].item()
        x = (x - beta / math.sqrt(1 - bar) * eps_model(x, times(len(x), t, x))) / math.sqrt(1 - beta)
        x = x + math.sqrt(beta) * (t > 1) * noise(x, generator)
    return x


def drawn_and_moved(x, generator):
    return torch.randn(x.shape, generator=generator).to(x.device)


def ddpm_moved(eps_model, x, schedule, generator):
    return ddpm(eps_model, x, schedule, generator, noise=drawn_and_moved)


def ddpm_of_the_cpu(eps_model, x, schedule, generator):
    return ddpm(eps_model, x, schedule, generator, noise=lambda x, g: torch.randn(x.shape, generator=g))


def ddpm_drawn_there(eps_model, x, schedule, generator):
    noise = lambda x, g: torch.randn(x.shape, generator=g, device=x.device)  # noqa: E731
    return ddpm(eps_model, x, schedule, generator, noise=noise)


def ddpm_times_of_the_cpu(eps_model, x, schedule, generator):
    return ddpm(eps_model, x, schedule, generator, noise=drawn_and_moved, times=lambda n, t, x: torch.full((n,), t))


def ddim_with_tables(eps_model, x, schedule, times, eta, generator):
    bars = torch.tensor([schedule.alpha_bar[t] for t in times]).to(x)
    for k, t in enumerate(times[:-1]):
        a, b = bars[k], bars[k + 1]
        eps = eps_model(x, torch.tensor([t] * len(x), device=x.device))
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        z = torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator))
        x = (b / a).sqrt() * (x - (1 - a).sqrt() * eps) + (1 - b - sigma**2).clamp(min=0).sqrt() * eps + sigma * z
    return x


def loss_of_own_table(eps_model, x0, t, eps, schedule):
    bar = torch.tensor(schedule.alpha_bar.tolist())[t].to(x0.device).view(-1, *[1] * (x0.ndim - 1))
    return (eps_model((bar.sqrt() * x0 + (1 - bar).sqrt() * eps).to(x0.dtype), t) - eps).square().mean()


def perturb_by_loop(x0, t, eps, schedule):
    rows = zip(x0, t, eps, strict=True)
    return torch.stack([schedule.signal[k] * x + schedule.noise[k] * e for x, k, e in rows])


def loss(eps_model, x0, t, eps, schedule):
    bar = schedule.alpha_bar[t].to(x0).view(-1, *[1] * (x0.ndim - 1))
    return nn.functional.mse_loss(eps_model(bar.sqrt() * x0 + (1 - bar).sqrt() * eps, t), eps)


def step(draw):
    def one(network, optimizer, average, x0, schedule, generator, decay):
        t = torch.randint(1, schedule.T + 1, (len(x0),), generator=generator, device=draw(x0, generator))
        eps = torch.randn(x0.shape, generator=generator, device=draw(x0, generator))
        value = (network(perturb_input(x0, t, eps, schedule), t) - eps).square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        for mean, weight in zip(average, network.to(x0.device).parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        return value.item()

    return one


def score_by_index(x, weights, means, variances):
    order = torch.arange(len(weights))
    square = (x[:, None] - means[order]).square().sum(2)
    logs = weights.log() - x.shape[1] / 2 * variances.log() - square / (2 * variances)
    share = torch.exp(logs - logs.max(1, keepdim=True).values)
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("nk,nkd->nd", share / variances, means - x[:, None])


def score_by_gradient(x, weights, means, variances):
    x = x.clone().requires_grad_()
    each = torch.distributions.Normal(means, variances.sqrt()[:, None]).log_prob(x[:, None]).sum(2)
    return torch.autograd.grad((each + weights.log()).logsumexp(1).sum(), x)[0]


def score_with_ones(x, weights, means, variances):
    return score_by_index(x, weights * torch.ones(len(weights)), means, variances)


def score_in_numpy(x, weights, means, variances):
    x, weights, means, variances = (value.numpy() for value in (x, weights, means, variances))
    off = means - x[:, None]
    logs = np.log(weights) - x.shape[1] / 2 * np.log(variances) - (off**2).sum(2) / (2 * variances)
    share = np.exp(logs - logs.max(1, keepdims=True))
    return ((share / share.sum(1, keepdims=True) / variances)[..., None] * off).sum(1)


def embedding(t, width, place=None):
    rates = 10_000.0 ** (-torch.arange(width // 2, device=place) / (width // 2))
    return torch.cat([(t[:, None] * rates).sin(), (t[:, None] * rates).cos()], 1)


def trace_by_jvp(field, x, v):
    total = torch.zeros_like(x[:, 0])
    for one in v:
        total += (torch.func.jvp(field, (x,), (one,))[1] * one).sum(1)
    return total / len(v)


FOUND = [
    (checks.check_sample_ddpm, ddpm_of_the_cpu, "same device; make new tensors with device=x.device."),
    (checks.check_sample_ddpm, ddpm_drawn_there, "the generator is on another device"),
    (checks.check_sample_ddpm, ddpm_times_of_the_cpu, "same device"),
    (checks.check_noise_prediction_loss, loss_of_own_table, r"indices on the GPU.*look up with t\.cpu"),
    (checks.check_training_step, step(lambda x0, g: None), "draw with device=generator.device"),
    (checks.check_mixture_score, score_with_ones, r"at `return score_by_index\(x, weights \* torch.ones"),
    (checks.check_time_embedding, embedding, r"embedding stops at `return torch.cat"),
]
NOT_FOUND = [
    (checks.check_sample_ddpm, ddpm_moved),
    (checks.check_sample_ddim, ddim_with_tables),
    (checks.check_perturb_input, perturb_by_loop),
    (checks.check_noise_prediction_loss, loss),
    (checks.check_training_step, step(lambda x0, g: x0.device)),
    (checks.check_training_step, step(lambda x0, g: g.device)),
    (checks.check_mixture_score, score_by_index),
    (checks.check_mixture_score, score_by_gradient),
    (checks.check_mixture_score, score_in_numpy),
    (checks.check_time_embedding, lambda t, width: embedding(t, width, t.device)),
    (checks.check_trace_estimate, trace_by_jvp),
]


@pytest.mark.parametrize(("check", "function", "said"), FOUND)
def test_what_stops_on_a_gpu_is_noted_and_named(check, function, said):
    [note] = notes_of(check, function)
    assert note.startswith(f"note: on a GPU {function.__name__} stops at `")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(note)


@pytest.mark.parametrize(("check", "function"), NOT_FOUND)
def test_what_goes_through_is_not_noted(check, function):
    assert notes_of(check, function) == []


class Shifted(nn.Module):
    """A noise predictor with a table that does not move with it."""

    def __init__(self, buffer):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if buffer:
            self.register_buffer("table", torch.ones(10))
        else:
            self.table = torch.ones(10)

    def forward(self, x, t):
        return self.layer(x) + self.table[t][:, None]


@pytest.mark.parametrize("buffer", [True, False])
def test_a_network_moves_with_its_tables(buffer):
    checks.check_noise_network(Shifted(buffer), torch.ones(3, 2), torch.tensor([1, 2, 3]))
    found = workshop.notes()
    assert (found == []) if buffer else ("Shifted stops at `return" in found[0])


# ------------------------------------------------------------------------------------------------ what stays as it is


def with_random_numbers_of_all_kinds(x, weights, means, variances):
    print("a line")
    np.random.rand(), torch.rand(1), random.random()  # noqa: NPY002
    return score_by_index(x, weights, means, variances)


def test_the_judged_number_and_the_random_numbers_are_those_without_it(monkeypatch, capsys):
    seen = []
    for extra in (True, False):
        monkeypatch.setattr(other_devices, "watched", other_devices.watched if extra else lambda value: value)
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(2), np.random.seed(3)  # noqa: NPY002
        numbers = [
            checks.check_mixture_score(with_random_numbers_of_all_kinds, generator=generator),
            checks.check_sample_ddpm(ddpm_of_the_cpu, generator=generator),
            checks.check_training_step(step(lambda x0, g: None), generator=generator),
        ]
        random_numbers = torch.rand(1).item(), np.random.rand(), generator.get_state().tolist()  # noqa: NPY002
        seen.append((numbers, random_numbers, capsys.readouterr().out))
        assert len(workshop.notes()) == 2 * extra
    assert seen[0] == seen[1]


def test_a_check_that_fails_makes_no_further_call():
    calls = []

    def zero(x, weights, means, variances):
        calls.append(x.device)
        return torch.zeros_like(x)

    with pytest.raises(AssertionError):
        checks.check_mixture_score(zero)
    assert set(calls) == {torch.device("cpu")}
    assert workshop.notes() == []


def test_the_note_stands_below_the_line_of_the_check(capsys):
    Report("05").check("Q2.P1", "the score", checks.check_mixture_score(score_with_ones), below=1)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("PASS  Q2.P1")
    assert second.startswith("note: on a GPU score_with_ones stops")
    Report("05").check("Q2.P1", "a number", 0.5, below=1)
    assert "note" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ with an accelerator


def test_what_stops_on_this_machines_gpu_is_replaced_there_and_used_elsewhere(session, monkeypatch, capsys):
    monkeypatch.setattr(other_devices, "accelerator", lambda: other_devices.IMITATED)
    session.update(bad=score_with_ones, good=score_by_index)
    for function in session["bad"], session["good"]:
        checks.check_mixture_score(function)
    taken = lambda *arguments: "the package's"  # noqa: E731
    bad, good = (workshop.choose(name, instead=taken) for name in ("bad", "good"))
    assert capsys.readouterr().out.splitlines() == [
        "from here on: your bad",
        "on a GPU: the package's function, because bad stops there",
        "from here on: your good",
    ]
    arguments = torch.randn(4, 2), torch.ones(2) / 2, torch.eye(2), torch.ones(2)
    assert torch.equal(bad(*arguments), good(*arguments))
    there = [value.to("meta") for value in arguments]
    assert bad(*there) == "the package's"
    with contextlib.suppress(NotImplementedError, RuntimeError):
        assert good(*there).device.type == "meta"


def test_on_a_device_of_torch_only_what_stops_there_alone_counts():
    """meta stands for the accelerator: an error that the same call has on the CPU is no finding."""
    x = torch.ones(3, 2)
    calls = {
        lambda x: x + torch.ones(3, 2): "stops at `",
        lambda x: x + 1: None,
        lambda x: x + torch.ones(5, 7): None,
    }
    for function, said in calls.items():
        found = other_devices.where_it_stops(other_devices.Call(function, (x,)), torch.device("meta"))
        assert (said in found) if said else (found is None)


@pytest.mark.skipif(other_devices.accelerator() is None, reason="this machine has no accelerator")
@pytest.mark.parametrize(("check", "function", "said"), FOUND)
def test_the_same_is_found_on_this_machines_accelerator(monkeypatch, check, function, said):
    monkeypatch.undo()
    assert len(notes_of(check, function)) == 1
