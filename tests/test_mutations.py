"""Mutations of the package: one wrong line each, which a test of its file, or else a check of a notebook, must catch.

They take long, so they are not in the default command: `python -m pytest -m mutations tests/test_mutations.py`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """One wrong line: the notebook whose subject it is, what is wrong, the file of hw3utils, old and new text."""

    notebook: str
    name: str
    file: str
    old: str
    new: str


MUTATIONS = [
    # ------------------------------------------------------------------------------------------------------------- 01
    Mutation(
        "01",
        "cosine schedule without its offset",
        "schedules.py",
        "f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2",
        "f = torch.cos(u * math.pi / 2) ** 2",
    ),
    Mutation(
        "01",
        "beta shifted by one step",
        "schedules.py",
        'torch.linspace(ends["beta_1"], ends["beta_T"], T, dtype=torch.float64)',
        'torch.linspace(ends["beta_1"], ends["beta_T"], T + 1, dtype=torch.float64)[1:]',
    ),
    Mutation("01", "noise level without its root", "schedules.py", "(1 - alpha_bar).sqrt()", "(1 - alpha_bar)"),
    Mutation(
        "01",
        "a generator used twice: every step of the chain has the same noise",
        "diffusion.py",
        "math.sqrt(beta) * gaussian_noise(x, generator)",
        "math.sqrt(beta) * gaussian_noise(x, torch.Generator().manual_seed(0))",
    ),
    Mutation(
        "01",
        "reverse step with the weights from before",
        "mixtures.py",
        "weights=torch.softmax(joint[:, 0], 0), means=before.means + shift",
        "weights=before.weights, means=before.means + shift",
    ),
    Mutation(
        "01",
        "reverse step as wide as beta",
        "mixtures.py",
        "before._variances * beta / marginal[..., 0]",
        "0 * marginal[..., 0] + beta",
    ),
    Mutation(
        "01",
        "posterior variance beta",
        "diffusion.py",
        "torch.ones_like(beta), ratio * beta",
        "torch.ones_like(beta), beta.clone()",
    ),
    Mutation(
        "01",
        "KL of two Gaussians without its logarithm",
        "bound.py",
        "return 0.5 * (q / p - 1 - math.log(q / p) + shift2 / p)",
        "return 0.5 * (q / p - 1 + shift2 / p)",
    ),
    Mutation("01", "error of the mean counts half in the KL", "bound.py", "+ shift2 / p)", "+ shift2 / p / 2)"),
    # ------------------------------------------------------------------------------------------------------------- 02
    Mutation(
        "02",
        "held-out pictures are training pictures",
        "sprites/drawing.py",
        "return part(0, n_train), part(n_train, wanted)",
        "return part(0, n_train), part(0, n_test)",
    ),
    Mutation(
        "02", "pictures on [0, 1]", "sprites/loading.py", ".to(torch.float32) / 127.5 - 1)", ".to(torch.float32) / 255)"
    ),
    Mutation(
        "02", "a label is never dropped", "learning/objectives.py", "< self.label_dropout", "< 0 * self.label_dropout"
    ),
    Mutation(
        "02", "network without its linear guess", "learning/networks.py", "return noise * x_t + signal * f", "return f"
    ),
    Mutation(
        "02",
        "EMA never applied",
        "learning/ema.py",
        "torch._foreach_copy_(self.live, self.average)",
        "torch._foreach_copy_(self.live, self.live)",
    ),
    Mutation(
        "02",
        "EMA without its warm-up",
        "learning/ema.py",
        "weight = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)",
        "weight = 1 - self.decay",
    ),
    Mutation("02", "noise added at the last step", "samplers.py", "if s > 0 and std > 0:", "if std > 0:"),
    Mutation(
        "02",
        "a generator used twice: every sample has the same noise",
        "samplers.py",
        "generators = sample_generators(seed, indices[rows])",
        "generators = sample_generators(seed, [0] * len(indices[rows]))",
    ),
    # ------------------------------------------------------------------------------------------------------------- 03
    Mutation(
        "03", "eta in place of its square", "samplers.py", "else eta**2 * (1 - abar_s)", "else eta * (1 - abar_s)"
    ),
    Mutation(
        "03",
        "a step left out of the grid",
        "time_grid.py",
        "return time_grid(start, S, spacing, schedule=schedule).tolist()",
        "return [start, *time_grid(start, S, spacing, schedule=schedule).tolist()[2:]]",
    ),
    Mutation("03", "DPM-Solver++ extrapolates twice as far", "samplers.py", "/ (2 * r)", "/ r"),
    Mutation(
        "03",
        "early stop diffuses to T",
        "samplers.py",
        "return perturb_input(x0, t_start, gaussian_noise(x0, generator), schedule)",
        "return perturb_input(x0, schedule.T, gaussian_noise(x0, generator), schedule)",
    ),
    Mutation(
        "03",
        "inversion of the wrong sign",
        "samplers.py",
        "x = signal_s * x0_hat + noise_s * eps",
        "x = signal_s * x0_hat - noise_s * eps",
    ),
    Mutation("03", "noises mixed on a straight line", "samplers.py", "((1 - w) * theta).sin() / sin)", "1 - w)"),
    Mutation(
        "03",
        "guidance without the label",
        "samplers.py",
        "return none if guidance == 0 else none + guidance * (network(x_t, t, label) - none)",
        "return none",
    ),
    # ------------------------------------------------------------------------------------------------------------- 04
    Mutation(
        "04",
        "FID without the means",
        "fid.py",
        "distance = (mean_1 - mean_2).square().sum() + cov_1",
        "distance = cov_1",
    ),
    Mutation(
        "04",
        "features not scaled",
        "learning/features.py",
        "return self.scale * self.classifier",
        "return self.classifier",
    ),
    Mutation(
        "04",
        "jackknife without G - 1",
        "fid.py",
        "return ((len(without) - 1) * float(np.var(without))) ** 0.5",
        "return float(np.var(without)) ** 0.5",
    ),
    Mutation(
        "04", "jackknife that leaves nothing out", "fid.py", "merged([*groups[:i], *groups[i + 1 :]])", "merged(groups)"
    ),
    Mutation("04", "slope of the line for its end", "fid.py", ".convert().coef[0]", ".convert().coef[1]"),
    Mutation(
        "04",
        "the difference of two cells with the wrong sign",
        "bench/fid_table.py",
        'return Estimate(row_1["fid"] - row_2["fid"], jackknife_error(change))',
        'return Estimate(row_2["fid"] - row_1["fid"], jackknife_error(change))',
    ),
    Mutation(
        "04",
        "sigma-hat sampled with the posterior variance",
        "bench/fid_table.py",
        '{"sampler": sample_ddpm, "variance": "beta", "steps": S}',
        '{"sampler": sample_ddpm, "variance": "posterior", "steps": S}',
    ),
    Mutation(
        "04",
        "the farthest picture for the nearest",
        "fid.py",
        "(half - part @ b.mT).argmin(1)",
        "(half - part @ b.mT).argmax(1)",
    ),
    # ------------------------------------------------------------------------------------------------------------- 05
    Mutation(
        "05",
        "components too narrow",
        "mixtures.py",
        "[1 + variance for variance in variances]",
        "[0.1 + variance for variance in variances]",
    ),
    Mutation(
        "05", "test points are training points", "mixtures.py", "points[4000:].clone()", "points[3000:4000].clone()"
    ),
    Mutation(
        "05",
        "noise in place of its square",
        "mixtures.py",
        "variances=signal**2 * self._variances + noise**2)",
        "variances=signal**2 * self._variances + noise)",
    ),
    Mutation(
        "05",
        "explicit loss without its half",
        "losses.py",
        "return difference.square().sum(1) / 2",
        "return difference.square().sum(1)",
    ),
    Mutation(
        "05",
        "variance not reduced",
        "losses.py",
        "(s.square().sum(1) if variance_reduced else v_dot_score.square()) / 2",
        "v_dot_score.square() / 2",
    ),
    Mutation(
        "05",
        "Rademacher signs that are Gaussian",
        "losses.py",
        "return gaussian_noise(x, generator).sign()",
        "return gaussian_noise(x, generator)",
    ),
    Mutation(
        "05",
        "a level left out of the ladder",
        "learning/objectives.py",
        "torch.randint(len(self.sigmas), (len(x),)",
        "torch.randint(max(1, len(self.sigmas) - 1), (len(x),)",
    ),
    Mutation("05", "EMA never applied", "learning/training.py", "step.ema.copy_to(network)", "pass"),
    # ------------------------------------------------------------------------------------------------------------- 06
    Mutation(
        "06",
        "half the half-width of the grid",
        "divergences.py",
        "low: float = -12.0, high: float = 12.0",
        "low: float = -6.0, high: float = 6.0",
    ),
    Mutation(
        "06",
        "projections of one set not sorted",
        "divergences.py",
        "_sorted(y @ directions)",
        "y @ directions",
    ),
    Mutation(
        "06",
        "floor of a set with itself",
        "divergences.py",
        "sum(distance(a, b) for a, b in pairs)",
        "sum(distance(a, a) for a, b in pairs)",
    ),
    Mutation(
        "06",
        "noise of a step not scaled by the root",
        "langevin.py",
        "x, sigma) + math.sqrt(a) * gaussian_noise(x, generator)\n\n    return",
        "x, sigma) + a * gaussian_noise(x, generator)\n\n    return",
    ),
    Mutation(
        "06",
        "MALA that accepts everything",
        "langevin.py",
        "accepted = u.log() < _log_ratio(here, there, a)",
        "accepted = u.log() < 1",
    ),
    Mutation("06", "the largest level left out", "langevin.py", "for sigma in levels:", "for sigma in levels[1:]:"),
    Mutation(
        "06",
        "last step with sigma for its square",
        "langevin.py",
        "return x + sigma**2 * _evaluate",
        "return x + sigma * _evaluate",
    ),
    Mutation(
        "06",
        "a level left out of the training",
        "learning/objectives.py",
        "torch.randint(len(self.sigmas), (len(x),)",
        "torch.randint(max(1, len(self.sigmas) - 1), (len(x),)",
    ),
]


# The tests of each file that is mutated.
TESTS = {
    "bench/fid_table.py": ("fid_table",),
    "bound.py": ("diffusion",),
    "diffusion.py": ("diffusion",),
    "divergences.py": ("divergences",),
    "fid.py": ("fid",),
    "langevin.py": ("langevin", "gradient_models"),
    "learning/ema.py": ("training",),
    "learning/features.py": ("classifier", "fid"),
    "learning/networks.py": ("networks",),
    "learning/objectives.py": ("training", "score_training"),
    "learning/training.py": ("training",),
    "losses.py": ("losses", "score_matching"),
    "mixtures.py": ("mixtures", "diffusion"),
    "samplers.py": ("samplers", "networks"),
    "schedules.py": ("schedules", "diffusion"),
    "sprites/drawing.py": ("sprites",),
    "sprites/loading.py": ("sprites",),
    "time_grid.py": ("samplers",),
}


def mutate(root, mutation):
    """A copy of the package, its tests and notebooks with one text replaced; the text must be there exactly once."""
    for folder in ("hw3utils", "notebooks", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".pytest.ini", root)
    path = root / "hw3utils" / mutation.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def failed_test(root, mutation):
    """The first test of the file that fails in a copy, None where all pass."""
    files = [f"tests/test_{name}.py" for name in TESTS[mutation.file]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "--no-header", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0] if failed else None


def failed_check(root, mutation):
    """The error of the check that fails in the notebook of a copy, None where all pass."""
    command = [sys.executable, "-m", "hw3utils", "run", mutation.notebook, "--profile", "quick", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    [executed] = (root / "out").glob("*.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    errors = [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]
    return next((error.evalue for error in errors if error.ename == "AssertionError"), None)


@pytest.mark.mutations
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.notebook}-{mutation.name}")
def test_it_is_caught(mutation, tmp_path):
    mutate(tmp_path, mutation)
    caught = failed_test(tmp_path, mutation) or failed_check(tmp_path, mutation)
    assert caught, "no test and no check saw it"
    print(f"{mutation.notebook} {mutation.name}: {caught[:160]}")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.notebook}-{mutation.name}")
def test_the_line_is_there_once(mutation):
    text = (ROOT / "hw3utils" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.old != mutation.new


def test_every_notebook_has_at_least_five():
    numbers = [mutation.notebook for mutation in MUTATIONS]
    assert all(numbers.count(f"0{k}") >= 5 for k in range(1, 7))
