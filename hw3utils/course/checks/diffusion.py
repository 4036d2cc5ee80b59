"""Checks of the exercises of notebooks 01 to 04: diffusion."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hw3utils.course.checks.building_blocks import (
    Chain,
    as_loss,
    as_tensor,
    broadcast,
    fresh_generator,
    on_copies,
    require,
)
from hw3utils.losses import noise_prediction_loss
from hw3utils.noise import EpsModel
from hw3utils.schedules import NoiseSchedule, linear_schedule


def check_linear_schedule(
    make: Callable[[int, float, float], tuple[Tensor, Tensor, Tensor]], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q1.P1: make(T, beta_1, beta_T) -> beta, alpha, alpha_bar, each with T + 1 entries, entry 0 the data.

    Returns:
        The largest error of the three tables over the homework's parameters and random ones.
    """
    generator = fresh_generator(generator)
    draw = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    other = int(torch.randint(20, 200, (), generator=generator))
    worst = 0.0
    for T, first, last in ((1000, 1e-4, 0.02), (other, 1e-3 * (1 + draw[0]), 0.05 * (1 + draw[1]))):
        tables = make(T, first, last)
        three = isinstance(tables, tuple | list) and len(tables) == 3
        require(three, f"the result is {type(tables).__name__}; return three tables: beta, alpha, alpha_bar.")
        names = ("beta", "alpha", "alpha_bar")
        beta, alpha, alpha_bar = (as_tensor(table, name, (T + 1,)) for table, name in zip(tables, names, strict=True))
        # Oracle: an arithmetic sequence, and log alpha_bar as a sum of logs in place of a product.
        want = torch.tensor([0.0] + [first + (last - first) * k / (T - 1) for k in range(T)], dtype=torch.float64)
        require(float(beta[0]) == 0, "beta[0] belongs to t = 0, the data, where no noise has been added yet.")
        require(
            bool((beta - want).abs().max() < 1e-6),
            "beta does not go in equal steps from beta_1 at t = 1 to beta_T at T.",
        )
        require(bool((alpha + beta - 1).abs().max() < 1e-6), "alpha_t and beta_t do not belong together.")
        log_bar = torch.log1p(-want).cumsum(0)
        error = (alpha_bar - log_bar.exp()).abs().max()
        shifted = (alpha_bar[1:] - log_bar[:-1].exp()).abs().max()
        require(
            bool(error < 1e-5 or shifted > 1e-5),
            "alpha_bar is right but for its index: look at which t each entry has.",
        )
        require(bool(error < 1e-5), "alpha_bar_t is not the product of alpha_1 to alpha_t.")
        worst = max(worst, float(error))
    return worst


def check_perturb_input(
    perturb: Callable[[Tensor, Tensor, Tensor, NoiseSchedule], Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q1.P2: perturb(x0, t, eps, schedule) -> x_t for x0 (B, ...), t int64 (B,).

    Returns:
        The largest error over random pictures and points at all times of two schedules.
    """
    generator = fresh_generator(generator)
    perturb = on_copies(perturb, "x0", "t", "eps", "schedule")
    worst = 0.0
    for shape, schedule in (((6, 3, 16, 16), linear_schedule()), ((40, 2), linear_schedule(300, 2e-4, 0.05))):
        x0, eps = (torch.randn(shape, generator=generator) for _ in range(2))
        t = torch.randint(1, schedule.T + 1, shape[:1], generator=generator)
        got = as_tensor(perturb(x0, t, eps, schedule), "x_t", shape)
        again = as_tensor(perturb(x0, t, eps, schedule), "x_t", shape)
        require(
            torch.equal(got, again), "the result differs from call to call: use the noise that is given, draw none."
        )
        # The coefficients of x0 and of eps, each with the other set to zero.
        zero = torch.zeros(shape)
        coef_x0 = as_tensor(perturb(torch.ones(shape), t, zero, schedule), "x_t", shape).flatten(1)[:, 0]
        coef_eps = as_tensor(perturb(zero, t, torch.ones(shape), schedule), "x_t", shape).flatten(1)[:, 0]
        signal, noise = schedule.signal[t], schedule.noise[t]
        require(
            bool((coef_x0 - signal).abs().max() < 1e-5 or (coef_x0 - schedule.signal[t - 1]).abs().max() > 1e-5),
            "the coefficients belong to the time step next to t: look at the index convention.",
        )
        require(
            bool((coef_x0 - signal).abs().max() < 1e-5),
            "what multiplies x0 is off: for data of variance 1 the variance of x_t would not stay 1.",
        )
        wrong_sign = bool((coef_eps + noise).abs().max() < 1e-5)
        require(not wrong_sign, "the noise has the wrong sign: it is added to the signal.")
        k = int((coef_eps - noise).abs().argmax())
        require(
            bool((coef_eps - noise).abs().max() < 1e-5),
            f"the noise has the wrong size: at t = {int(t[k])} eps is multiplied by {float(coef_eps[k]):.4f}, "
            f"expected sqrt(1 - alpha_bar_t) = {float(noise[k]):.4f}.",
        )
        want = broadcast(signal, x0) * x0.double() + broadcast(noise, eps) * eps.double()
        error = float((got - want).abs().max())
        require(error < 1e-5, "x_t is right for some samples and not for others: each sample has a time of its own.")
        worst = max(worst, error)
    return worst


def _linear_model(a: float, b: float, T: int, asked: list[Tensor]) -> EpsModel:
    """The noise predictor a x + b t / T, which notes the times."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        asked.append(torch.as_tensor(t).detach().clone())
        return a * x + b * broadcast(torch.as_tensor(t) / T, x)

    return model


def check_noise_prediction_loss(
    loss: Callable[[EpsModel, Tensor, Tensor, Tensor, NoiseSchedule], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge the loss of Q1.P3: loss(eps_model, x0, t, eps, schedule) -> one value, or one per sample.

    Returns:
        The largest relative error on random linear models.
    """
    generator = fresh_generator(generator)
    loss = on_copies(loss, "the model", "x0", "t", "eps", "schedule")
    worst = 0.0
    for shape, schedule in (((16, 3, 8, 8), linear_schedule()), ((64, 2), linear_schedule(300, 2e-4, 0.05))):
        x0, eps = (torch.randn(shape, generator=generator) for _ in range(2))
        t = torch.randint(1, schedule.T + 1, shape[:1], generator=generator)
        a, b = torch.rand(2, generator=generator).tolist()
        asked: list[Tensor] = []
        model = _linear_model(a, b, schedule.T, asked)
        value = as_loss(loss(model, x0, t, eps, schedule)).mean()
        require(len(asked) > 0, "the model was never asked.")
        require(
            all(torch.equal(s.cpu(), t) for s in asked),
            "the model was asked at other times than those that were given.",
        )
        want = noise_prediction_loss(model, x0, t, eps, schedule).double().mean()
        x0_error = (model(x0, t) - eps).square().double().mean()
        require(bool(abs(value - x0_error) > 1e-4 * x0_error), "the model must see the noisy x_t, not the clean x0.")
        error = float((value - want).abs() / want)
        require(error < 1e-4, f"the loss is {value / want:.3f} times the mean squared error of the predicted noise.")
        worst = max(worst, error)
    return worst


def gaussian_chain_variances(schedule: NoiseSchedule, s: float, variance: str) -> Tensor:
    """Variance of each state of ancestral sampling on N(0, s^2) data with the exact eps model, from x_T ~ N(0, 1).

    Every step is linear in x, so the variance follows v_{t-1} = a_t^2 v_t + sigma_t^2 exactly.

    Args:
        schedule: noise schedule.
        s: standard deviation of the data.
        variance: "beta" or "posterior".

    Returns:
        float64 (T + 1,), entry t the variance of x_t.
    """
    v = torch.ones(schedule.T + 1, dtype=torch.float64)
    for t in range(schedule.T, 0, -1):
        beta, abar, before = (float(x) for x in (schedule.beta[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]))
        marginal = abar * s**2 + 1 - abar
        a = (1 - beta / marginal) / math.sqrt(1 - beta)
        sigma2 = 0.0 if t == 1 else beta if variance == "beta" else (1 - before) / (1 - abar) * beta
        v[t - 1] = a**2 * v[t] + sigma2
    return v


def _ddpm_mean(schedule: NoiseSchedule, t: int, x: Tensor, eps: Tensor) -> Tensor:
    """The mean of DDPM's step from t to t - 1."""
    beta, bar = float(schedule.beta[t]), float(schedule.alpha_bar[t])
    return (x - beta / math.sqrt(1 - bar) * eps) / math.sqrt(1 - beta)


def _ddpm_variances(schedule: NoiseSchedule, t: int) -> tuple[float, ...]:
    """The variances of DDPM's step from t to t - 1: beta_t, or that of the posterior."""
    beta, bar, before = (float(v) for v in (schedule.beta[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]))
    return (beta, (1 - before) / (1 - bar) * beta) if t > 1 else (0.0,)


def _ddim_step(schedule: NoiseSchedule, t: int, before: int, eta: float) -> tuple[float, float, float]:
    """DDIM's step from t to an earlier time: the coefficients of x_t and eps, and the variance of the noise."""
    bar, bar_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[before])
    sigma2 = eta**2 * (1 - bar_s) / (1 - bar) * (1 - bar / bar_s)
    coef_x = math.sqrt(bar_s / bar)
    return coef_x, math.sqrt(1 - bar_s - sigma2) - coef_x * math.sqrt(1 - bar), sigma2


def _gaussian_model(
    schedule: NoiseSchedule, s: float, mean: float, asked: list[int], visit: Callable[[int, Tensor, Tensor], None]
) -> EpsModel:
    """The exact noise predictor of N(mean, s^2) data, which notes the times, and shows each state to `visit`."""

    def eps_model(x: Tensor, t: Tensor) -> Tensor:
        steps = torch.as_tensor(t).cpu().reshape(-1)
        asked.append(int(steps[0]))
        signal, noise = (table[steps].to(x).view(-1, 1) for table in (schedule.signal, schedule.noise))
        eps = noise * (x - signal * mean) / (signal**2 * s**2 + noise**2)
        visit(int(steps[0]), x.detach().double(), eps.detach().double())
        return eps

    return eps_model


def check_sample_ddpm(
    sample: Callable[[EpsModel, Tensor, NoiseSchedule, torch.Generator], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q1.P4: sample(eps_model, x_T, schedule, generator) -> x_0, sigma_t^2 = beta_t or the posterior's.

    On Gaussian data the exact eps model is known and every step is linear, so the variance of the result is known in
    closed form for both choices of sigma_t; the sample variance of many chains must be one of the two.

    Returns:
        The distance of the samples' variance from the nearer closed form, in standard errors.
    """
    generator = fresh_generator(generator)
    sample = on_copies(sample, "the model", "x_T", "schedule", "generator")
    worst, chains = 0.0, []
    n = 20_000
    for T, s, mean in ((100, 1.0, 0.0), (100, 0.02, 0.0), (60, 0.6, 1.5)):
        schedule = linear_schedule(T, 1e-3, 0.1)
        asked: list[int] = []
        chain = Chain(8 * math.sqrt(2 / n))

        def visit(t: int, x: Tensor, eps: Tensor, chain: Chain = chain, schedule: NoiseSchedule = schedule) -> None:
            if t > 0:
                chain.visit(x, _ddpm_mean(schedule, t, x, eps), *_ddpm_variances(schedule, t))

        x_T = torch.randn(n, 1, generator=generator)
        eps_model = _gaussian_model(schedule, s, mean, asked, visit)
        x = as_tensor(sample(eps_model, x_T, schedule, generator), "x_0", (n, 1))
        require(asked != list(range(1, T + 1)), "time runs the wrong way: sampling starts from noise.")
        require(asked == list(range(T, 0, -1)), f"the model must be asked once at each t from T = {T} down to 1.")
        values = [float(gaussian_chain_variances(schedule, s, choice)[0]) for choice in ("beta", "posterior")]
        got = float(x.var())
        off = min(abs(got - v) / (v * math.sqrt(2 / n)) for v in values)
        noisy = s < 0.1 and got > 1.5 * max(values)
        require(not noisy, "the samples are noisier than the data: look at what the very last step adds.")
        word = "narrow" if got < min(values) else "wide"
        require(off < 5, f"the samples are too {word}: their variance is {got:.3g} for data of variance {s**2:.3g}.")
        drift = abs(float(x.mean()) - mean) / max(math.sqrt(got), 1e-9)
        require(drift < 0.1, f"the samples' mean is {float(x.mean()):.3f} for data of mean {mean}.")
        chain.end(x)
        chains.append(chain)
        worst = max(worst, off)
    for chain in chains:
        chain.judge()
    return worst


def gaussian_ddim_chain(schedule: NoiseSchedule, s: float, times: Sequence[int], eta: float) -> tuple[float, float]:
    """DDIM on N(0, s^2) data with the exact eps model: x_0 = factor x_T + noise.

    Args:
        schedule: noise schedule.
        s: standard deviation of the data.
        times: time steps from T down to 0.
        eta: standard deviation of the noise as a fraction of the posterior's, 0 to 1.

    Returns:
        The factor, and the variance of the noise, both exact.

    Source: Song, Meng and Ermon 2021, arXiv 2010.02502, equations 12 and 16.
    """
    factor, variance = 1.0, 0.0
    for t, before in itertools.pairwise(times):
        coef_x, coef_eps, sigma2 = _ddim_step(schedule, t, before, eta)
        bar = float(schedule.alpha_bar[t])
        a = coef_x + coef_eps * math.sqrt(1 - bar) / (bar * s**2 + 1 - bar)
        factor, variance = a * factor, a**2 * variance + sigma2
    return factor, variance


def check_sample_ddim(
    sample: Callable[[EpsModel, Tensor, NoiseSchedule, Sequence[int], float, torch.Generator], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Judge Q1.P5: sample(eps_model, x_T, schedule, times, eta, generator) -> x_0, times going from T down to 0.

    On Gaussian data every step is linear. With eta = 0 each sample is known; with eta > 0 the part that follows x_T and
    the variance of the rest are.

    Returns:
        The largest deviation over its limit: a thousandth for eta = 0, five standard errors otherwise.
    """
    generator = fresh_generator(generator)
    sample = on_copies(sample, "the model", "x_T", "schedule", "times", "eta", "generator")
    n, worst, chains = 20_000, 0.0, []
    schedule = linear_schedule(100, 1e-3, 0.1)
    full, strided = list(range(100, -1, -1)), [100, 80, 60, 45, 30, 20, 10, 4, 0]
    for times, eta in ((strided, 0.0), (full, 0.0), (strided, 1.0), (strided, 0.5), (full, 1.0)):
        s = 0.05 + float(torch.rand((), generator=generator))
        asked: list[int] = []
        chain = Chain(8 * math.sqrt(2 / n))
        next_time = dict(itertools.pairwise(times))

        def visit(
            t: int, x: Tensor, eps: Tensor, chain: Chain = chain, next_time: dict = next_time, eta: float = eta
        ) -> None:
            if t in next_time:
                coef_x, coef_eps, sigma2 = _ddim_step(schedule, t, next_time[t], eta)
                chain.visit(x, coef_x * x + coef_eps * eps, sigma2)

        x_T = torch.randn(n, 1, generator=generator)
        eps_model = _gaussian_model(schedule, s, 0.0, asked, visit)
        x = as_tensor(sample(eps_model, x_T, schedule, times, eta, generator), "x_0", (n, 1))
        require(
            asked != sorted(times)[: len(times) - 1] and asked != sorted(times)[1:],
            "time runs the wrong way: the given times go from noise to data.",
        )
        require(asked == times[:-1], "the model must be asked once at each of the given times but the last, 0.")
        factor, variance = gaussian_ddim_chain(schedule, s, times, eta)
        where = f"with {len(times) - 1} steps and eta = {eta:g}"
        slope = float((x * x_T).sum() / x_T.double().square().sum())
        if eta == 0:
            rest = float((x - slope * x_T).abs().max())
            require(
                rest < 1e-3 * max(abs(slope), 1e-3),
                f"{where} the result must depend on x_T alone, but noise was added.",
            )
            error = abs(slope / factor - 1)
            require(error < 1e-3, f"{where} the samples are {slope / factor:.3g} times as wide as they should be.")
            worst = max(worst, error / 1e-3)
        else:
            got = float((x - slope * x_T).var())
            off = abs(got / variance - 1) / math.sqrt(2 / n)
            word = "much" if got > variance else "little"
            require(off < 5, f"{where} too {word} noise was added: variance {got:.4g} where {variance:.4g} belongs.")
            drift = abs(slope - factor) / math.sqrt(variance / n)
            require(
                drift < 5, f"{where} the part that follows x_T is off: the step and its noise do not belong together."
            )
            worst = max(worst, off / 5, drift / 5)
        chain.end(x)
        chains.append(chain)
    for chain in chains:
        chain.judge()
    return worst


def check_sampling_pair(
    sample_ddpm: Callable[[int], Tensor], sample_ddim: Callable[[int], Tensor], network: torch.nn.Module, *, n: int = 2
) -> float:
    """Judge Q1.P6: two functions of n that give n pictures, one by all T steps of DDPM and one by fifty of DDIM.

    A grid of fifty points may have 49 to 51 steps, depending on its ends, and a quadratic one loses a few more where it
    is rounded: 45 to 51 are right. The states at which the network is asked must follow from each other, with the noise
    of DDPM and without any for DDIM, and end in the pictures.

    Args:
        sample_ddpm, sample_ddim: callables n -> (n, 3, 16, 16).
        network: the noise predictor that both ask; its evaluations are counted. Its schedule is the homework's.
        n: pictures asked for.

    Returns:
        Evaluations of the network by DDPM over those by DDIM.
    """
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x, t = (*args, *kwargs.values())[:2]
        calls.append((x.detach().cpu(), torch.as_tensor(t).detach().cpu(), output.detach().cpu()))

    hook = network.register_forward_hook(note, with_kwargs=True)
    counted, chains = {}, {}
    try:
        for name, sample in (("DDPM", sample_ddpm), ("DDIM", sample_ddim)):
            calls.clear()
            with torch.no_grad():
                pictures = as_tensor(sample(n), f"what {name} gives", (n, 3, 16, 16))
            counted[name] = sum(len(x) for x, _, _ in calls) / n
            chains[name] = pictures, list(calls)
    finally:
        hook.remove()
    require(min(counted.values()) > 0, "the network was never asked; both samplers must use it.")
    require(
        counted["DDPM"] == 1000, f"DDPM asked the network {counted['DDPM']:g} times a picture, not once for each step."
    )
    require(
        45 <= counted["DDIM"] <= 51,
        f"DDIM asked the network {counted['DDIM']:g} times a picture; the exercise asks for fifty steps.",
    )
    for name, (pictures, asked) in chains.items():
        _judge_pictures(name, pictures, asked)
    return counted["DDPM"] / counted["DDIM"]


def _merged(calls: Sequence[tuple[Tensor, Tensor, Tensor]], n: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Calls of the network at one time for a part of n pictures each, as one call."""
    merged: list[tuple[Tensor, Tensor, Tensor]] = []
    for x, t, eps in calls:
        x_before, t_before, eps_before = merged[-1] if merged else (x, None, eps)
        same = t_before is not None and int(t.reshape(-1)[0]) == int(t_before.reshape(-1)[0])
        if same and len(x_before) + len(x) <= n:
            merged[-1] = torch.cat([x_before, x]), t, torch.cat([eps_before, eps])
        else:
            merged.append((x, t, eps))
    return merged


def _judge_pictures(name: str, pictures: Tensor, calls: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """The chains behind pictures: noise of the right size after each step, and the pictures at their end."""
    schedule = linear_schedule()
    ratios, ends = [], []
    calls = _merged(calls, len(pictures))
    next_time = 0
    for k, (x, t, eps) in enumerate(calls):
        time = int(t.reshape(-1)[0])
        require(1 <= time <= schedule.T, f"{name} asks the network at t = {time}, expected 1 to {schedule.T}.")
        # The grids of the papers begin at T, at the last step of a stride, or at 0.8 T.
        begins = next_time == 0
        require(time > 0.75 * schedule.T or not begins, f"{name} begins at t = {time}; noise alone belongs to t = T.")
        following = calls[k + 1] if k + 1 < len(calls) else None
        next_time = int(following[1].reshape(-1)[0]) if following else 0
        if next_time >= time:
            next_time = 0
        # With eta = 1 DDIM's step is DDPM's with the posterior variance.
        coef_x, coef_eps, sigma2 = _ddim_step(schedule, time, next_time, 1.0 if name == "DDPM" else 0.0)
        expected = coef_x * x.double() + coef_eps * eps.double()
        if following is None or next_time == 0:
            ends.append(expected)
        elif following[0].shape == x.shape:
            scale = sigma2 if name == "DDPM" else float(expected.square().mean())
            ratios.append(float((following[0].double() - expected).square().mean()) / scale)
    middle = sorted(ratios)[len(ratios) // 2] if ratios else math.inf
    if name == "DDPM":
        require(middle > 0.5, "DDPM adds too little noise between its steps: which eta is its own?")
        require(middle < 1.5, "DDPM does not go on from step to step: the states at which it asks the network differ.")
    else:
        require(middle < 1e-3, "DDIM does not go on from step to step without noise: which eta is its own?")
    end = torch.cat(ends)
    off = (pictures.clamp(-1, 1) - end.clamp(-1, 1)).abs().max() if end.shape == pictures.shape else math.inf
    require(float(off) < 0.05, f"the pictures that {name} gives are not the end of its chain.")


def check_frechet_distance(
    distance: Callable[[Tensor, Tensor, Tensor, Tensor], float | Tensor], *, generator: torch.Generator | None = None
) -> float:
    """Judge Q1.P7: distance(mean_1, cov_1, mean_2, cov_2) -> the squared Frechet distance of two Gaussians.

    Returns:
        The largest relative error over random Gaussians whose covariances have the same eigenvectors, turned by a
        linear map that keeps the closed form, and over singular ones.
    """
    generator = fresh_generator(generator)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def ask(*arguments: Tensor) -> float:
        return float(as_tensor(distance(*(value.clone() for value in arguments)), "the distance", ()))

    worst = 0.0
    for d in (1, 4, 9):
        basis = torch.linalg.qr(draw(d, d) - 0.5).Q
        mean_1, mean_2 = 3 * draw(d), 3 * draw(d)
        values_1, values_2 = 0.5 + draw(d), 1.5 + 2 * draw(d)
        cov_1, cov_2 = (basis * values @ basis.T for values in (values_1, values_2))
        zero = torch.zeros(d, dtype=torch.float64)
        means = float((mean_1 - mean_2).square().sum())
        shapes = float((values_1.sqrt() - values_2.sqrt()).square().sum())
        _judge(ask(mean_1, cov_1, mean_2, cov_1), means, "two Gaussians that differ in their means only")
        _judge(ask(zero, cov_1, zero, cov_2), shapes, f"two Gaussians with the same mean, in {d} dimensions")
        got = ask(mean_1, cov_1, mean_2, cov_2)
        _judge(got, means + shapes, "two Gaussians that differ in mean and covariance")
        _judge(ask(mean_2, cov_2, mean_1, cov_1), got, "the same two Gaussians the other way round")
        worst = max(worst, abs(got / (means + shapes) - 1))
        # One of them a single direction: its covariance is singular, and the overlap is known.
        v = basis[:, 0]
        flat = torch.outer(v, v)
        other = torch.diag(values_2)
        want = float(1 + values_2.sum() - 2 * (v @ other @ v).sqrt())
        _judge(ask(zero, flat, zero, other), want, "a Gaussian that is flat in all directions but one", 1e-4)
    # Covariances that do not commute: the optimal map between them is known by construction.
    half = draw(3, 3) - 0.5
    cov_1 = half @ half.T + 0.2 * torch.eye(3, dtype=torch.float64)
    way = draw(3, 3) - 0.5
    way = way @ way.T + 0.3 * torch.eye(3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    move = way - torch.eye(3, dtype=torch.float64)
    want = float((move @ cov_1 @ move).trace())
    got = ask(zero, cov_1, zero, way @ cov_1 @ way)
    _judge(got, want, "two Gaussians whose covariances do not commute: is a matrix square root taken entry by entry?")
    return max(worst, abs(got / want - 1))


def _judge(got: float, want: float, what: str, tolerance: float = 1e-6) -> None:
    """Compare a number with a closed form, to a relative tolerance."""
    require(abs(got - want) <= tolerance * max(want, 1.0), f"the distance is off for {what}: got {got:.6g}.")


def check_noise_network(network: torch.nn.Module, x: Tensor, t: Tensor) -> int:
    """Judge a noise predictor as a module: the same input gives the same output, and every parameter is trained.

    A layer that is made inside `forward` fails: it is new and random in every call, and no optimizer knows it.

    Args:
        network: callable (x, t) -> eps.
        x: pictures, shape (B, ...), float.
        t: int64 (B,).

    Returns:
        How many parameter tensors take part.
    """
    before = {name for name, _ in network.named_parameters()}
    mode = network.training
    network.eval()
    try:
        with torch.no_grad():
            one, two = network(x, t), network(x, t)
        require(one.shape == x.shape, f"the network returns shape {tuple(one.shape)} for {tuple(x.shape)}.")
        require(torch.equal(one, two), "the same input gives another output each time: what is made anew in forward?")
        held = [parameter for parameter in network.parameters() if parameter.requires_grad]
        weight = torch.randn(one.shape, generator=torch.Generator().manual_seed(0)).to(x)
        grads = torch.autograd.grad((network(x, t) * weight).sum(), held, allow_unused=True) if held else []
    finally:
        network.train(mode)
    after = {name for name, _ in network.named_parameters()}
    require(before == after, f"forward itself made new parameters: {', '.join(sorted(after - before)[:3])}.")
    require(len(held) > 0, "the network has no parameters that can be trained.")
    unused = sum(grad is None for grad in grads)
    require(unused < len(held) / 2, f"{unused} of {len(held)} parameters take no part in the output.")
    return len(held) - unused


def check_features(features: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Judge a feature network for FID: the features of a picture must not depend on the pictures beside it.

    In training mode they do: batch norm takes its statistics from the batch, and dropout is random.

    Args:
        features: callable: pictures (N, ...) -> (N, d).
        images: at least 4 pictures.

    Returns:
        The largest relative difference between a picture's features alone, in a batch, and in another order.
    """
    batch = torch.as_tensor(features(images)).detach().double()
    require(batch.ndim == 2 and len(batch) == len(images), f"the features have shape {tuple(batch.shape)}, not (N, d).")
    alone = torch.cat([torch.as_tensor(features(images[i : i + 1])).detach().double() for i in range(4)])
    turned = torch.as_tensor(features(images.flip(0))).detach().double().flip(0)
    again = torch.as_tensor(features(images)).detach().double()
    size = float(batch.norm(dim=1).mean())
    require(
        float((again - batch).norm(dim=1).max()) < 1e-3 * size, "asked twice, the same pictures have other features."
    )
    worst = max(float((alone - batch[:4]).norm(dim=1).max()), float((turned - batch).norm(dim=1).max())) / size
    require(worst < 1e-3, "a picture's features change with the pictures beside it: in which mode is the network?")
    return worst


def check_reverse_path(times: Sequence[int], states: Sequence[Tensor]) -> float:
    """Judge a picture of the reverse chain: time must fall from noise to data, in the labels as in the states.

    Args:
        times: the labels, in the order of drawing.
        states: x_t at each of them, (..., H, W).

    Returns:
        How many times rougher the first state is than the last: mean square difference of neighbouring pixels.
    """
    require(len(times) == len(states) >= 2, f"there are {len(times)} times for {len(states)} states.")
    falling = all(a > b for a, b in itertools.pairwise(times))
    require(falling, "time does not fall along the path: the reverse chain goes from noise to the data.")
    rough = [float(torch.as_tensor(x).detach().double().diff(dim=-1).square().mean()) for x in states]
    require(rough[0] > rough[-1], "what is labelled as noise is smoother than what is labelled as data.")
    return rough[0] / rough[-1]
