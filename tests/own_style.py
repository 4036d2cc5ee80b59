"""Answers to all exercises, each in a style of its own: float32, NumPy inside, loops, other orders of the noise.

`RIGHT` has one for each cell of a student, by grade_id; `WRONG` has mistakes, at least one for each notebook: the cell,
the name of the function, a part of the reason that its check must give, and the source.
"""

RIGHT = {
    # ------------------------------------------------------------------------------------------------------- 01
    "Q1-P1-solution": """
def make_schedule(T, beta_1, beta_T):
    beta, alpha_bar = [0.0], [1.0]
    for k in range(T):
        beta.append(beta_1 + k * (beta_T - beta_1) / (T - 1))
        alpha_bar.append(alpha_bar[-1] * (1 - beta[-1]))
    return [torch.tensor(table) for table in (beta, [1 - b for b in beta], alpha_bar)]
""",
    "Q1-P2-solution": """
import numpy as np

def my_perturb_input(x0, t, eps, schedule):
    x_t = np.empty(x0.shape, dtype=np.float32)
    for i in range(len(x0)):
        abar = schedule.alpha_bar.numpy()[t[i]]
        x_t[i] = np.sqrt(abar) * x0[i].numpy() + np.sqrt(1 - abar) * eps[i].numpy()
    return x_t
""",
    "Q1-T2-code": """
def my_posterior(x0, x_t, t, schedule):
    alpha, beta = schedule.alpha[t], schedule.beta[t]
    precision = alpha / beta + 1 / (1 - schedule.alpha_bar[t - 1])
    mean = (alpha.sqrt() / beta * x_t + schedule.alpha_bar[t - 1].sqrt() / (1 - schedule.alpha_bar[t - 1]) * x0)
    return [mean / precision, 1 / precision]
""",
    # ------------------------------------------------------------------------------------------------------- 02
    "Q1-P3-loss-solution": """
from torch.nn.functional import mse_loss

def my_loss(eps_model, x0, t, eps, schedule):
    shape = (len(x0),) + (1,) * (x0.ndim - 1)
    signal = schedule.alpha_bar[t].float().sqrt().reshape(shape)
    noise = (1 - schedule.alpha_bar[t]).float().sqrt().reshape(shape)
    return mse_loss(eps_model(signal * x0 + noise * eps, t), eps, reduction="sum") / eps.numel()
""",
    "Q1-P3-step-solution": """
def my_training_step(network, optimizer, average, x0, schedule, generator, decay):
    eps = torch.randn(x0.shape, generator=generator)
    t = (torch.rand(len(x0), generator=generator) * schedule.T).long() + 1
    loss = loss_of(network, x0, t, eps, schedule)
    for p in network.parameters():
        p.grad = None
    loss.backward()
    optimizer.step()
    for a, p in zip(average, network.parameters()):
        a.mul_(decay).add_(p.detach(), alpha=1 - decay)
    return loss.item()
""",
    "02-embedding-solution": """
import numpy as np

def my_time_embedding(t, width):
    rows = np.zeros((len(t), width), dtype=np.float32)
    for i in range(width // 2):
        angle = t.numpy() / 10000 ** (2 * i / width)
        rows[:, 2 * i], rows[:, 2 * i + 1] = np.sin(angle), np.cos(angle)
    return rows
""",
    "Q1-P4-solution": """
def my_sample_ddpm(eps_model, x_T, schedule, generator):
    x, beta, abar = x_T.float(), schedule.beta.float(), schedule.alpha_bar.float()
    for t in reversed(range(1, schedule.T + 1)):
        z = torch.randn(x.shape, generator=generator)
        eps = eps_model(x, torch.tensor([t] * len(x)))
        x0_hat = (x - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        mean = abar[t - 1].sqrt() * beta[t] * x0_hat + (1 - beta[t]).sqrt() * (1 - abar[t - 1]) * x
        variance = (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]
        x = (mean / (1 - abar[t]) + variance.sqrt() * z).float()
    return x
""",
    # ------------------------------------------------------------------------------------------------------- 03
    "Q1-P5-solution": """
def my_sample_ddim(eps_model, x_T, schedule, times, eta, generator):
    x, times = x_T.float(), list(times)
    for k in range(len(times) - 1):
        a, b = schedule.alpha_bar[times[k]], schedule.alpha_bar[times[k + 1]]
        sigma = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
        z = torch.randn(x.shape, generator=generator)
        eps = eps_model(x, torch.full([x.shape[0]], times[k]))
        x = (b / a).sqrt() * x + ((1 - b - sigma**2).sqrt() - (b * (1 - a) / a).sqrt()) * eps + sigma * z
        x = x.float()
    return x.numpy()
""",
    "Q1-P6-solution": """
import numpy as np

def first_noise(n):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, 3, 16, 16))).float()

def sample_ddpm(n):
    with torch.no_grad():
        grid = np.arange(schedule.T, -1, -1).tolist()
        return sampler(network, first_noise(n), schedule, grid, 1, torch.manual_seed(n)).numpy()

def sample_ddim(n):
    with torch.no_grad():
        return sampler(network, first_noise(n), schedule, list(range(1000, -1, -20)), 0, None)
""",
    "03-guided-solution": """
def my_guided(eps_none, eps_label, w):
    return ((1 - w) * eps_none.numpy() + w * eps_label.numpy())
""",
    # ------------------------------------------------------------------------------------------------------- 04
    "Q1-P7-solution": """
import numpy as np

def my_frechet_distance(mean_1, cov_1, mean_2, cov_2):
    m, n, A, B = (np.asarray(value) for value in (mean_1, mean_2, cov_1, cov_2))
    values = np.linalg.eigvals(A @ B).real
    return ((m - n) ** 2).sum() + np.trace(A + B) - 2 * np.sqrt(np.maximum(values, 0)).sum()
""",
    # ------------------------------------------------------------------------------------------------------- 05
    "Q2-P1-solution": """
import numpy as np

def my_score(x, weights, means, variances):
    x, means = x.numpy(), means.numpy()
    logs, scores = [], []
    for w, mean, v in zip(weights.numpy(), means, variances.numpy()):
        off = x - mean
        logs.append(np.log(w) - (off**2).sum(1) / (2 * v) - x.shape[1] * np.log(np.sqrt(2 * np.pi * v)))
        scores.append(-off / v)
    logs = np.stack(logs)
    r = np.exp(logs - logs.max(0))
    r = r / r.sum(0)
    return sum(r[k][:, None] * scores[k] for k in range(len(scores)))

def my_perturbed_score(x, weights, means, variances, sigma):
    return torch.tensor(my_score(x.float(), weights, means, variances + torch.ones(len(weights)) * sigma * sigma))
""",
    "Q2-T2-code": """
def my_implicit_loss(score, x):
    jacobian = torch.func.jacrev(lambda y: score(y).sum(0))(x)
    return torch.einsum("ini->n", jacobian) + 0.5 * torch.linalg.vector_norm(score(x), dim=1) ** 2

def my_sliced_loss(score, x, v):
    s, slope = torch.func.jvp(score, (x,), (v,))
    return torch.einsum("nd,nd->n", slope, v) + torch.einsum("nd,nd->n", s, v) ** 2 / 2
""",
    "Q2-P2-loss-solution": """
def my_denoising_loss(score, x, sigma, z):
    return ((sigma * score(x + sigma * z, sigma) + z) ** 2).sum() / sigma**2
""",
    "Q2-P2-run-solution": """
def my_score_training(network, points, steps, generator):
    adam = torch.optim.Adam(network.parameters())
    levels = torch.tensor([7.0, 3.0, 1.0])
    for _ in range(steps):
        sigma = levels[torch.multinomial(torch.ones(3), 1, generator=generator)].item()
        batch = points[torch.randperm(len(points), generator=generator)[:128]]
        z = torch.randn(128, 2, generator=generator)
        adam.zero_grad()
        (sigma**2 * denoising_loss(network, batch, sigma, z).mean()).backward()
        adam.step()
    return network
""",
    # ------------------------------------------------------------------------------------------------------- 06
    "Q2-P3-solution": """
import numpy as np

def my_ascent(score, x, step_size, n_steps):
    y = x.numpy().astype(np.float32).copy()
    k = 0
    while k < n_steps:
        y += 0.5 * step_size * score(torch.from_numpy(y.copy())).numpy().astype(np.float32)
        k += 1
    return y

def my_langevin(score, x, step_size, n_steps, generator):
    noises = np.sqrt(step_size) * torch.randn(n_steps, *x.shape, generator=generator)
    states = [x.float()]
    for z in noises:
        states.append((states[-1] + step_size * score(states[-1]) / 2 + z).float())
    return states[-1]
""",
    "Q2-P4-solution": """
a = 0.05
samples = {}
samples["langevin"] = my_langevin(mixture.score, uniform, a, 800, torch.manual_seed(1)).double().numpy()
samples["deterministic"] = my_ascent(lambda x: mixture.score(x).float(), uniform, 2 * a, 600)
""",
    "Q2-P5-annealed-solution": """
def my_annealed_langevin(score, x, sigmas, step_size, n_steps, generator):
    x, last = x.float(), float(sigmas[-1])
    for k in range(len(sigmas) * n_steps):
        sigma = float(sigmas[k // n_steps])
        drift = step_size * sigma**2 / last**2 / 2 * score(x, sigma)
        x = torch.normal(x + drift.float(), step_size**0.5 * sigma / last, generator=generator)
    return x
""",
    "Q2-P5-denoise-solution": """
def my_denoise(score, x, sigma):
    eps = -sigma * score(x.float(), sigma).numpy()
    return x.numpy() - sigma * eps
""",
    # ------------------------------------------------------------------------------------------------------- 07
    "07-1-drift-solution": """
def my_reverse_drift(x, score, beta, lam):
    return (-0.5 * beta * (x + (1 + lam * lam) * score)).float()
""",
    "07-2-heun-solution": """
def my_heun(eps_model, x_T, schedule, times):
    a = [float(v) ** 0.5 for v in schedule.alpha_bar]
    s = [float((1 - v) / v) ** 0.5 for v in schedule.alpha_bar]
    x = x_T.float()
    for now, later in zip(times[:-1], times[1:]):
        h, d = s[later] - s[now], eps_model(x, now)
        trial = a[later] * (x / a[now] + h * d)
        if later == 0:
            return trial
        x = a[later] * (x / a[now] + h * 0.5 * (d + eps_model(trial.float(), later)))
        x = x.float()
""",
    "07-3-trace-solution": """
def my_trace_estimate(field, x, v):
    total = torch.zeros(len(x))
    for direction in v:
        total += (torch.func.jvp(field, (x,), (direction,))[1] * direction).sum(-1)
    return (total / v.shape[0]).float().numpy()
""",
    "07-3-log-prob-solution": """
def my_log_prob(velocity, divergence, x, base, steps):
    h, s, total = 1 / steps, 0.0, 0.0
    while s < 1 - h / 2:
        total = total + divergence(x, s)
        x, s = x + h * velocity(x, s), s + h
    return base(x) + h * total
""",
    "07-4-loss-solution": """
def my_flow_matching_loss(velocity, x0, s, eps):
    x_s = torch.lerp(x0, eps, s.unsqueeze(-1))
    return torch.linalg.vector_norm(velocity(x_s, s) - eps + x0, dim=-1) ** 2
""",
    "07-4-sample-solution": """
def my_sample_flow(velocity, x1, steps):
    x = x1.float()
    for s in torch.linspace(1, 0, steps + 1)[:-1]:
        x = x - (1 / steps) * velocity(x, s * torch.ones(x.shape[0])).float()
    return x
""",
}

WRONG = {
    "01": (
        "Q1-P2-solution",
        "my_perturb_input",
        "the noise has the wrong size",
        RIGHT["Q1-P2-solution"].replace("np.sqrt(1 - abar)", "(1 - abar)"),
    ),
    "02": (
        "Q1-P4-solution",
        "my_sample_ddpm",
        "the samples are noisier than the data",
        RIGHT["Q1-P4-solution"].replace("variance = (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]", "variance = beta[t]"),
    ),
    "02 loss": (
        "Q1-P3-loss-solution",
        "my_loss",
        "the loss is 3072.000 times the mean squared error",
        RIGHT["Q1-P3-loss-solution"].replace(" / eps.numel()", ""),
    ),
    "03": (
        "Q1-P5-solution",
        "my_sample_ddim",
        "too much noise was added",
        RIGHT["Q1-P5-solution"].replace("sigma = eta * ((1 - b) / (1 - a)).sqrt()", "sigma = eta * (1 - b).sqrt()"),
    ),
    "04": (
        "Q1-P7-solution",
        "my_frechet_distance",
        "the distance is off for two Gaussians that differ in their means only",
        RIGHT["Q1-P7-solution"].replace("2 * np.sqrt(", "np.sqrt("),
    ),
    "05": (
        "Q2-P1-solution",
        "my_perturbed_score",
        "what is the variance of the sum of a point",
        RIGHT["Q2-P1-solution"].replace("* sigma * sigma", "* sigma"),
    ),
    "05 loss": (
        "Q2-P2-loss-solution",
        "my_denoising_loss",
        "a score that points to the clean point with the right length is not the best one",
        RIGHT["Q2-P2-loss-solution"].replace("+ z) ** 2", "+ sigma * z) ** 2"),
    ),
    "06": (
        "Q2-P5-denoise-solution",
        "my_denoise",
        "the points move too far",
        RIGHT["Q2-P5-denoise-solution"].replace("- sigma * eps", "- eps"),
    ),
    "07": (
        "07-1-drift-solution",
        "my_reverse_drift",
        "the score is multiplied by g, not by its square",
        RIGHT["07-1-drift-solution"].replace("(1 + lam * lam)", "(1 + lam * lam) / beta**0.5"),
    ),
}
