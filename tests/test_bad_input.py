"""Wrong input through the public functions: one sentence that names what was got, and nothing half-written."""

import json
import math

import numpy as np
import pytest
import torch

import hw3utils
from hw3utils import (
    bound,
    diffusion,
    divergences,
    fid,
    files,
    langevin,
    losses,
    mixtures,
    noise,
    plots,
    samplers,
    schedules,
    sprites,
    time_grid,
)
from hw3utils import datasets as sets
from hw3utils.learning import features, networks, objectives, training, weights

SCHEDULE = schedules.linear_schedule(20)
NORMAL = mixtures.GaussianMixture([1.0], [[0.0, 0.0]], [1.0])
X = torch.zeros(3, 2)
PICTURES = np.zeros((3, 16, 16, 3), np.uint8)


def eps_model(x, t):
    return x


def score(x, sigma):
    return -x


def config(**options):
    return training.TrainConfig(**{"steps": 1, "batch_size": 2, **options})


def train(data=None, **options):
    network = networks.UNet(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), groups=4, time_width=16)
    data = torch.zeros(4, 3, 16, 16) if data is None else data
    return next(training.train(network, data, objectives.DiffusionObjective(SCHEDULE), config(**options)))


CASES = {
    # shapes, dtypes, ranges, NaN, empty: schedules and the forward process
    "schedule of no steps": (lambda: schedules.linear_schedule(0), "T is 0"),
    "schedule of half a step": (lambda: schedules.linear_schedule(2.5), "2.5"),
    "schedule of text": (lambda: schedules.linear_schedule("many"), "'many'"),
    "beta above 1": (lambda: schedules.linear_schedule(10, 0.1, 1.5), "1.5"),
    "beta NaN": (lambda: schedules.linear_schedule(10, math.nan, 0.02), "nan"),
    "beta falls": (lambda: schedules.NoiseSchedule(torch.tensor([0.0, -0.1])), "-0.1"),
    "sigmas the wrong way": (lambda: schedules.geometric_sigmas(1, 20, 5), "20"),
    "no sigmas": (lambda: schedules.geometric_sigmas(20, 1, 0), "0"),
    "schedule card of a list": (lambda: schedules.schedule_from_card([1]), "[1]"),
    "schedule card without a name": (lambda: schedules.schedule_from_card({}), "{}"),
    "t past the end": (lambda: diffusion.perturb_input(X, 21, X, SCHEDULE), "21"),
    "t negative": (lambda: diffusion.perturb_input(X, -1, X, SCHEDULE), "-1"),
    "t fractional": (lambda: diffusion.perturb_input(X, torch.full((3,), 1.5), X, SCHEDULE), "float"),
    "t of another length": (lambda: diffusion.perturb_input(X, torch.ones(2).long(), X, SCHEDULE), "2"),
    "eps of another shape": (lambda: diffusion.perturb_input(X, 1, X[:2], SCHEDULE), "(2, 2)"),
    "pictures as integers": (lambda: diffusion.perturb_input(X.long(), 1, X, SCHEDULE), "int64"),
    "x0 with NaN": (lambda: diffusion.perturb_input(X * math.nan, 1, X, SCHEDULE), "NaN"),
    "chain from integers": (lambda: next(diffusion.forward_chain(X.long(), SCHEDULE)), "int64"),
    "posterior at 0": (lambda: diffusion.posterior(X, X, 0, SCHEDULE), "0"),
    "steps of a table": (lambda: schedules.linear_schedule(np.zeros((30, 2))), "T is array([[0., 0.]"),
    "a table for a name": (lambda: time_grid.time_grid(20, 5, torch.zeros(9, 9)), "spacing is tensor([[0."),
    "noise of integers": (lambda: noise.gaussian_noise(X.long()), "int64"),
    "a decoder's mean of another shape": (lambda: bound.gaussian_decoder(X, X[:2], X + 1), "(2, 2)"),
    "a decoder's variance of 0": (lambda: bound.gaussian_decoder(X, X, X), "0"),
    "a decoder's mean of NaN": (lambda: bound.discrete_decoder(X, X * math.nan, X + 1), "NaN"),
    # mixtures
    "log density of NaN": (lambda: NORMAL.log_prob(X * math.nan), "NaN"),
    "score at infinity": (lambda: NORMAL.score(X + math.inf), "infinity"),
    "weights that do not add up": (
        lambda: mixtures.GaussianMixture([0.5, 0.1], [[0.0], [1.0]], [1.0, 1.0]),
        "[0.5, 0.1]",
    ),
    "a negative weight": (lambda: mixtures.GaussianMixture([1.5, -0.5], [[0.0], [1.0]], [1.0, 1.0]), "-0.5"),
    "means and weights of two lengths": (lambda: mixtures.GaussianMixture([1.0], [[0.0], [1.0]], [1.0]), "2"),
    "a variance of 0": (lambda: mixtures.GaussianMixture([1.0], [[0.0]], [0.0]), "0"),
    "a mean of NaN": (lambda: mixtures.GaussianMixture([1.0], [[math.nan]], [1.0]), "NaN"),
    "points of another dimension": (lambda: NORMAL.score(torch.zeros(3, 5)), "5"),
    "minus one sample": (lambda: NORMAL.sample(-1), "-1"),
    "noise below 0": (lambda: NORMAL.perturbed(1.0, -1.0), "-1"),
    "a student number of letters": (lambda: mixtures.student_mixture("abc"), "'abc'"),
    "a negative student number": (lambda: mixtures.student_mixture(-5), "-5"),
    # losses
    "loss of integers": (lambda: losses.noise_prediction_loss(eps_model, X.long(), 1, X, SCHEDULE), "int64"),
    "sigma of 0": (lambda: losses.denoising_score_matching(score, X, 0.0), "0"),
    "sigma NaN": (lambda: losses.denoising_score_matching(score, X, math.nan), "nan"),
    "no projections": (lambda: losses.sliced_score_matching(lambda x: -x, X, n_projections=0), "0"),
    "a score of another shape": (lambda: losses.implicit_score_matching(lambda x: x[:, :1], X), "(3, 1)"),
    # samplers
    "more steps than T": (lambda: samplers.sample_ddim(eps_model, X, SCHEDULE, steps=21), "21"),
    "no steps": (lambda: samplers.sample_ddim(eps_model, X, SCHEDULE, steps=[]), "empty"),
    "steps that fall": (lambda: samplers.sample_ddim(eps_model, X, SCHEDULE, steps=[20, 10, 15]), "15"),
    "eta above 1": (lambda: samplers.sample_ddim(eps_model, X, SCHEDULE, eta=1.5), "1.5"),
    "eta NaN": (lambda: samplers.sample_ddim(eps_model, X, SCHEDULE, eta=math.nan), "nan"),
    "an unknown variance": (lambda: samplers.sample_ddpm(eps_model, X, SCHEDULE, variance="large"), "'large'"),
    "an unknown spacing": (lambda: time_grid.time_grid(20, 5, "cubic"), "'cubic'"),
    "a start of infinity": (lambda: samplers.sample_ddpm(eps_model, X + math.inf, SCHEDULE), "infinity"),
    "a model that returns NaN": (lambda: samplers.sample_ddpm(lambda x, t: x * math.nan, X, SCHEDULE), "NaN"),
    "a model of another shape": (lambda: samplers.sample_ddim(lambda x, t: x[:1], X, SCHEDULE), "(1, 2)"),
    "a schedule that is none": (lambda: samplers.sample_ddim(eps_model, X, [0.1]), "list"),
    "an early stop past T": (lambda: samplers.early_stop(X, SCHEDULE, t_start=30), "30"),
    "a seed below 0": (lambda: noise.sample_generators(-1, [0]), "-1"),
    # Langevin and divergences
    "a step size of 0": (lambda: langevin.langevin(score, X, step_size=0.0, n_steps=1), "0"),
    "a step size of infinity": (lambda: langevin.langevin(score, X, step_size=math.inf, n_steps=1), "inf"),
    "sigmas of NaN": (lambda: langevin.annealed_langevin(score, X, [math.nan], step_size=0.1, n_steps=1), "nan"),
    "no sigmas to anneal": (lambda: langevin.annealed_langevin(score, X, [], step_size=0.1, n_steps=1), "sigma"),
    "points of two dimensions": (lambda: divergences.sliced_wasserstein(X, torch.zeros(3, 3)), "3"),
    "a ratio for no step": (
        lambda: langevin.acceptance_log_ratio(NORMAL.log_prob, score, X, X, step_size=0.0),
        "step_size is 0",
    ),
    "a ratio of two sizes": (
        lambda: langevin.acceptance_log_ratio(NORMAL.log_prob, score, X, X[:2], step_size=0.1),
        "(2, 2)",
    ),
    "a grid to infinity": (lambda: divergences.grid_kl(X, NORMAL.log_prob, high=math.inf), "high is inf"),
    "energy of no points": (lambda: divergences.energy_distance(X[:0], X), "0"),
    # networks and training
    "levels that differ": (lambda: networks.UNet(widths=(8, 16)), "2, 3"),
    "pictures of 15 pixels": (lambda: networks.UNet()(torch.zeros(1, 3, 15, 15), torch.ones(1).long()), "15"),
    "t past the schedule": (
        lambda: networks.UNet(schedule=SCHEDULE.card())(torch.zeros(1, 3, 16, 16), torch.tensor([21])),
        "21",
    ),
    "a label past the classes": (
        lambda: networks.UNet()(torch.zeros(1, 3, 16, 16), torch.tensor([1]), torch.tensor([6])),
        "6",
    ),
    "pictures that are an array": (lambda: networks.UNet()(np.zeros((1, 3, 16, 16)), torch.ones(1).long()), "ndarray"),
    "a time that is a number": (lambda: networks.UNet()(torch.zeros(1, 3, 16, 16), 3), "int"),
    "points of integers": (lambda: networks.ScoreMLP()(X.long()), "int64"),
    "data of integers": (
        lambda: training.fit(networks.ScoreMLP(), X.long(), objectives.DenoisingObjective([1.0]), config()),
        "int64",
    ),
    "data of two lengths": (lambda: train((torch.zeros(4, 3, 16, 16), torch.zeros(3).long())), "[4, 3]"),
    "data of NaN": (lambda: train(torch.full((4, 3, 16, 16), math.nan)), "NaN"),
    "weights for an unknown device": (lambda: hw3utils.load_pretrained(device="toaster"), "'toaster'"),
    "features on an unknown device": (lambda: features.feature_extractor("sprites", device="toaster"), "'toaster'"),
    "samples on an unknown device": (
        lambda: samplers.sample_in_batches(samplers.sample_ddim, eps_model, SCHEDULE, (2,), n=2, device="toaster"),
        "'toaster'",
    ),
    # pictures
    "pixels of no size": (lambda: plots.save_grid(PICTURES, "x.png", scale=0), "scale is 0"),
    "stretches of no length": (lambda: plots.smooth([1.0, 2.0], 0), "width is 0"),
    "a grid of NaN": (lambda: plots.grid_points(math.nan, 1.0, 3), "low is nan"),
    "a sprite's seed below 0": (lambda: sprites.load_sprites(seed=-1), "seed is -1"),
    "distances of floats": (lambda: fid.nearest_distances(PICTURES / 2, PICTURES), "float64"),
    "a seed of text": (lambda: fid.kid(PICTURES, PICTURES, seed="x"), "seed is 'x'"),
    "batches of nothing": (lambda: sets.open_set("embedded:test", batch_size=0), "batch_size is 0"),
    "channels first": (lambda: sprites.images_to_tensor(np.zeros((2, 3, 16, 16), np.uint8)), "(2, 3, 16, 16)"),
    "more held out than there are": (lambda: sprites.load_sprites(n_train=10, n_test=10**9), "1000000000"),
    "FID of one picture": (
        lambda: fid.fid(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((3, 16, 16, 3), np.uint8)),
        "1",
    ),
    "covariances of two sizes": (
        lambda: fid.frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3)),
        "2 and 3",
    ),
}


@pytest.mark.parametrize(("call", "named"), CASES.values(), ids=CASES)
def test_wrong_arguments_are_named_in_one_sentence(call, named):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    said = str(caught.value)
    assert named in said
    assert "\n" not in said
    assert 20 < len(said) < 300


# ------------------------------------------------------------------------------------------------------------- files


def write(path, content):
    path.write_bytes(content)
    return path


FILES = {
    "empty": b"",
    "text": b"no such thing\n",
    "a pickle": b"\x80\x04K\x01.",
    "cut off npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'",
    "an npy of objects": (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        + b" " * 58
        + b"\n\x80\x04K\x01."
    ),
    "a png signature": b"\x89PNG\r\n\x1a\n",
    "a huge safetensors header": b"\xff" * 16,
    "json": b"{}",
    "cut off json": b'{"network": {"na',
    "deep json": b"[" * 100_000,
    "zeros": bytes(1000),
}


def beside(path, name):
    """The folder of a file, after a copy of it under another name."""
    return write(path.parent / name, path.read_bytes()).parent


READERS = {
    "read_tensors": files.read_tensors,
    "read_pictures": sets.read_pictures,
    "load_weights": weights.load_weights,
    "inception": lambda path: features.feature_extractor("inception", inception_weights=path),
    "folder of PNG": lambda path: list(sets.open_set(str(beside(path, "x.png")))),
    "source folder": lambda path: sprites.load_sprites(str(beside(path, "x.png"))),
    "real sprites": lambda path: sprites.load_sprites(
        "real", root=beside(path, "sprites_1788_16x16.npy"), download=False
    ),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_damaged_files_are_refused_in_one_sentence(read, content, tmp_path):
    path = write(tmp_path / "file.bin", content)
    with pytest.raises((ValueError, FileNotFoundError, ConnectionError)) as caught:
        read(path)
    said = str(caught.value)
    assert str(tmp_path) in said
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"", b"nope", b"[1, 2]", b'{"a": NaN', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match="JSON") as caught:
        files.read_json(write(tmp_path / "card.json", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "Transformer"}},
        {"network": {"name": "UNet", "widths": "wide"}},
        {"network": {"name": "UNet", "widths": [32, 64, 128], "layers": 3}},
        {"network": None},
        {"schedule": None},
        {"schedule": {"name": "linear", "T": 10**12}},
        {"schedule": {"name": "cosine", "T": 10**9}},
        {"network": {"name": "UNet", "schedule": {"name": "linear", "T": 10**12}}},
        {"schedule": {"name": "spiral"}},
        {"sha256": "0" * 64},
    ],
    ids=json.dumps,
)
def test_a_card_that_is_wrong_is_refused(change, tmp_path):
    path = weights.pretrained_path("sprites")
    (tmp_path / "weights.safetensors").write_bytes(path.read_bytes())
    card = files.read_json(path.with_suffix(".json"))
    (tmp_path / "weights.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(ValueError) as caught:
        weights.load_weights(tmp_path)
    assert "weights" in str(caught.value)
    assert "\n" not in str(caught.value)
