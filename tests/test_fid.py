"""Distances of sets of pictures against closed forms, torchmetrics, torch-fidelity and pytorch-fid's formula."""

import itertools
import math
import re
import weakref
from unittest import mock

import numpy as np
import pytest
import requests
import torch
from hub import Hub
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from hw3utils.__main__ import main
from hw3utils.fid import (
    FeatureStatistics,
    FrechetDistance,
    at_infinity,
    distance_of,
    feature_statistics,
    features_of,
    fid,
    frechet_distance,
    jackknife_error,
    kid,
    leave_one_out,
    merged,
    nearest_distances,
)
from hw3utils.learning.features import INCEPTION_FILE, feature_extractor
from hw3utils.sprites import draw_sprites


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def covariance(d, generator, rank=None):
    root = torch.randn(d, rank or 2 * d, generator=generator, dtype=torch.float64)
    return root @ root.T / root.shape[1]


def test_commuting_covariances_have_a_closed_form(generator):
    a, b = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    mean = torch.randn(6, generator=generator, dtype=torch.float64)
    got = frechet_distance(mean, basis * a @ basis.T, 0 * mean, basis * b @ basis.T)
    want = float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert math.isclose(got, want, rel_tol=1e-12)


def test_zero_to_itself_symmetric_and_unchanged_by_rotation(generator):
    a, b = covariance(8, generator), covariance(8, generator)
    m, n = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    d = frechet_distance(m, a, n, b)
    assert frechet_distance(m, a, m, a) < 1e-12
    assert math.isclose(frechet_distance(n, b, m, a), d, rel_tol=1e-10)
    assert math.isclose(frechet_distance(turn @ m, turn @ a @ turn.T, turn @ n, turn @ b @ turn.T), d, rel_tol=1e-10)


def test_singular_covariances(generator):
    a = covariance(8, generator, rank=2)
    zero = torch.zeros(8, dtype=torch.float64)
    assert math.isclose(frechet_distance(zero, a, zero, 4 * a), float(a.trace()), rel_tol=1e-6)
    assert math.isclose(frechet_distance(zero, a, zero, 0 * a), float(a.trace()), rel_tol=1e-12)


def test_the_trace_term_is_that_of_the_matrix_square_root(generator):
    a, b = covariance(5, generator), covariance(5, generator)
    zero = torch.zeros(5, dtype=torch.float64)
    overlap = torch.linalg.eigvals(a @ b).sqrt().sum().real
    want = float(a.trace() + b.trace() - 2 * overlap)
    assert math.isclose(frechet_distance(zero, a, zero, b), want, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_2": torch.zeros(3)}, r"mean_2 has shape \(3,\)"),
        ({"cov_1": torch.ones(2, 3)}, r"cov_1 \(2, 3\)"),
        ({"mean_1": torch.tensor([0.0, math.nan])}, "mean_1 or cov_1 holds NaN"),
        ({"cov_2": torch.tensor([[1.0, math.inf], [math.inf, 1.0]])}, "cov_2 holds NaN or infinity"),
        ({"cov_2": torch.tensor([[1.0, 5.0], [0.0, 1.0]])}, "cov_2 is not symmetric"),
        ({"mean_2": torch.zeros(3), "cov_2": torch.eye(3)}, "2 and 3 dimensions"),
    ],
)
def test_what_is_refused(change, message):
    good = {"mean_1": torch.zeros(2), "cov_1": torch.eye(2), "mean_2": torch.zeros(2), "cov_2": torch.eye(2)}
    with pytest.raises(ValueError, match=message):
        frechet_distance(**(good | change))


# ----------------------------------------------------------------------------------------- statistics of features


def pictures(n, seed=0, side=16):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


class Linear(torch.nn.Module):
    """Features that are a fixed linear map of the pictures: their moments are known."""

    def __init__(self, d=6, seed=0):
        super().__init__()
        self.num_features = d
        weight = torch.randn(d, 768, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("weight", weight / 768)

    def forward(self, x):
        return x.flatten(1).float() @ self.weight.T


@pytest.mark.parametrize("sizes", [(7,), (1, 6), (3, 3, 1), (1,) * 7])
def test_streamed_statistics_are_the_plain_ones(sizes, generator):
    x = torch.randn(7, 4, generator=generator) + 100
    statistics = FeatureStatistics()
    for part in x.split(sizes):
        statistics.update(part)
    assert statistics.n == 7
    torch.testing.assert_close(statistics.mean, x.double().mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(statistics.covariance, torch.cov(x.double().T), rtol=1e-10, atol=1e-12)


def test_merged_statistics_are_those_of_all_vectors(generator):
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    parts = []
    for chunk in x.split(17):
        parts.append(FeatureStatistics())
        parts[-1].update(chunk)
    together = merged([FeatureStatistics(), *parts])
    torch.testing.assert_close(together.covariance, torch.cov(x.T))
    assert parts[0].n == 17  # left as they were


@pytest.mark.parametrize(
    ("features", "message"),
    [(torch.zeros(3), r"shape \(3,\)"), (torch.full((2, 2), torch.nan), "NaN"), (torch.zeros(2, 5), "5 dimensions")],
)
def test_statistics_refuse(features, message):
    statistics = FeatureStatistics()
    statistics.update(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=message):
        statistics.update(features)
    with pytest.raises(ValueError, match="at least 2 pictures"):
        _ = FeatureStatistics().covariance


def test_fid_is_that_of_torchmetrics_on_the_same_features():
    a, b = pictures(80, 1), pictures(70, 2) // 2
    metric = FrechetInceptionDistance(feature=Linear())
    for images, real in ((a, True), (b, False)):
        metric.update(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), real=real)
    assert math.isclose(fid(a, b, extractor=Linear()), float(metric.compute()), rel_tol=1e-5)


def test_the_metric_is_that_of_torchmetrics_and_of_the_statistics():
    a, b = pictures(80, 1), pictures(70, 2) // 2
    ours = FrechetDistance(Linear(), reset_real_features=False)
    theirs = FrechetInceptionDistance(feature=Linear(), reset_real_features=False)
    for images in (b, pictures(30, 3)):
        for part, real in ((a[:50], True), (images[:20], False), (images[20:], False), (a[50:], True)):
            if real and ours.real.n == 80:
                continue  # kept by the reset
            ours.update(part, real=real)
            theirs.update(torch.from_numpy(part.transpose(0, 3, 1, 2).copy()), real=real)
        assert math.isclose(ours.compute(), fid(a, images, extractor=Linear()), rel_tol=1e-5)
        assert math.isclose(ours.compute(), float(theirs.compute()), rel_tol=1e-5)
        ours.reset()
        theirs.reset()
    assert (ours.real.n, ours.fake.n) == (80, 0)
    metric = FrechetDistance("sprites")
    metric.update(a, real=True)
    with pytest.raises(ValueError, match="at least 2"):
        metric.compute()
    metric.reset()
    assert metric.real.n == 0


def test_kid_is_that_of_torchmetrics_on_the_same_subset():
    a, b = pictures(40, 1), pictures(40, 2) // 2
    network = Linear()
    f, g = (torch.cat(list(features_of(x, network))).double() for x in (a, b))
    value, error = kid(a, b, extractor=network, subset_size=20, seed=None)
    halves = [float(poly_mmd(f[i : i + 20], g[i : i + 20])) for i in (0, 20)]
    assert math.isclose(value, sum(halves) / 2, rel_tol=1e-9)
    assert math.isclose(error, abs(halves[0] - halves[1]) / 2, rel_tol=1e-9)


def test_kid_is_unbiased(generator):
    """Sets of one distribution: 200 values of KID have mean 0 within 4 standard errors, however small the sets."""
    network = Linear()
    values = torch.tensor(
        [kid(pictures(8, 2 * i), pictures(8, 2 * i + 1), extractor=network, subset_size=4).value for i in range(200)]
    )
    assert float(values.mean().abs() / (values.std() / 200**0.5)) < 4
    assert float(values.min()) < 0


def test_order_batch_size_and_streaming_do_not_matter():
    a, b = pictures(60, 1), pictures(50, 2)
    network = Linear()
    value = fid(a, b, extractor=network)
    order = np.random.default_rng(0).permutation(60)
    assert math.isclose(fid(a[order], b, extractor=network, batch_size=7), value, rel_tol=1e-6)
    assert math.isclose(fid((a[i : i + 9] for i in range(0, 60, 9)), [b], extractor=network), value, rel_tol=1e-6)
    tensor = torch.from_numpy(a.transpose(0, 3, 1, 2).copy())
    assert math.isclose(fid(tensor, b, extractor=network), value, rel_tol=1e-6)


def test_fid_with_the_sprites_features_does_not_depend_on_batch_or_order():
    a, b = draw_sprites(60, seed=1)[0], draw_sprites(60, seed=2)[0]
    assert math.isclose(fid(a, b, batch_size=60), fid(a[::-1].copy(), b, batch_size=13), rel_tol=1e-4)


def test_a_set_larger_than_the_memory_is_streamed():
    """No more than one batch of the stream is alive at a time."""
    alive = most = 0

    class Counted(np.ndarray):
        def __array_finalize__(self, parent):
            pass

    def stream():
        nonlocal alive, most
        for i in range(20):
            alive += 1
            most = max(most, alive)
            batch = pictures(25, i)
            weakref.finalize(batch, down)
            yield batch
            del batch

    def down():
        nonlocal alive
        alive -= 1

    statistics = feature_statistics(stream(), Linear(), batch_size=25)
    assert statistics.n == 500
    assert most <= 3


def test_a_network_is_evaluated_and_its_mode_restored():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(1)).train()
    network(torch.zeros(2, 3, 16, 16))
    x = torch.rand(12, 3, 16, 16)
    first, second = (torch.cat(list(features_of(x, network, batch_size=5))) for _ in range(2))
    assert torch.equal(first, second)
    assert network.training
    assert network[1].training


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 16, 16), np.uint8), r"\(3, 16, 16\)"),
        (np.zeros((3, 16, 16, 3)), "float64"),
        ([1, 2], "int"),
        (np.zeros((0, 16, 16, 3), np.uint8), "no picture"),
        ([], "no picture"),
        (np.zeros((1, 16, 16, 3), np.uint8), "at least 2"),
        (np.zeros((4, 32, 32, 3), np.uint8), "16, 16"),
        (torch.zeros(4, 3, 16, 16), "float32"),
    ],
)
def test_wrong_pictures_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        fid(bad, pictures(5))


def test_a_module_that_returns_no_vectors_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 3, 16, 16\)"):
        fid(pictures(5), pictures(5), extractor=torch.nn.Identity())


# ------------------------------------------------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random weights in the official format, scaled so that features do not die out."""
    with (
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", return_value={}),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("random", ["2048"])
        for parameter in network.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("inception") / INCEPTION_FILE
    torch.save(network.state_dict(), path)
    return path


class Folder(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


def test_inception_end_to_end_is_torch_fidelity(inception_weights, tmp_path, capsys):
    a, b = draw_sprites(24, seed=1)[0], 255 - draw_sprites(24, seed=2)[0]
    for name, images in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i:03d}.png")
    want = calculate_metrics(
        input1=str(tmp_path / "a"),
        input2=str(tmp_path / "b"),
        fid=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
        cuda=False,
        cache=False,
        batch_size=8,
        verbose=False,
    )["frechet_inception_distance"]
    folders = [str(tmp_path / name) for name in "ab"]
    weights = ["--extractor", "inception", "--inception-weights", str(inception_weights)]
    assert main(["fid", *folders, *weights, "--batch-size", "9"]) == 0
    printed = capsys.readouterr().out
    got = float(re.search(r"FID ([\d.]+), 2048 inception features", printed)[1])
    assert math.isclose(got, want, rel_tol=1e-3, abs_tol=1e-3)
    assert "24 pictures" in printed
    assert "too large" in printed


def test_inception_in_training_mode_stays_in_evaluation_mode(inception_weights):
    network = feature_extractor("inception", inception_weights=inception_weights)
    network.train()
    assert not any(module.training for module in network.modules())


def test_missing_inception_weights_are_one_sentence_and_no_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    Hub({INCEPTION_FILE: requests.ConnectionError("no network")}, monkeypatch)
    assert main(["fid", "embedded:test", "embedded:test", "--n", "10", "--extractor", "inception"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--inception-weights" in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.rglob("*.part")) == []
    with pytest.raises(ConnectionError, match="--inception-weights"):
        feature_extractor("inception", download=False)


def test_a_download_that_is_not_the_official_file_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    Hub({INCEPTION_FILE: b"something else"}, monkeypatch)
    with pytest.raises(ConnectionError, match="SHA-256"):
        feature_extractor("inception")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION_FILE).write_bytes(b"half of it")
    with pytest.raises(ValueError, match="SHA-256"):
        feature_extractor("inception")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_damaged_weights_files_are_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        feature_extractor("inception", inception_weights=path)


def test_unknown_names_and_wrong_pairs():
    with pytest.raises(ValueError, match="'vgg'"):
        feature_extractor("vgg")
    with pytest.raises(ValueError, match="inception"):
        feature_extractor("sprites", inception_weights="file")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        feature_extractor("inception", inception_weights="nowhere.pth")


# ------------------------------------------------------------------------------------------------------ error bars


def gaussian_groups(m, n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for _ in range(m):
        groups.append(FeatureStatistics())
        groups[-1].update(torch.randn(n, d, generator=generator))
    return groups


def exact(d):
    """Statistics whose mean is 0 and whose covariance is the identity."""
    statistics = FeatureStatistics()
    x = torch.eye(d, dtype=torch.float64)
    statistics.update(torch.cat([x, -x]) * ((2 * d - 1) / 2) ** 0.5)
    return statistics


def test_jackknife_error_is_the_spread_over_repeated_experiments():
    reference = exact(4)
    shift = exact(4)
    shift.mean += 1  # far enough that the FID is not at its minimum, where it has no linear part
    values, errors = [], []
    for seed in range(40):
        groups = gaussian_groups(10, 40, 4, seed)
        values.append(distance_of(merged(groups), shift))
        errors.append(jackknife_error(leave_one_out(groups, shift)))
    assert 0.7 < np.mean(errors) / np.std(values, ddof=1) < 1.4
    assert distance_of(reference, exact(4)) < 1e-12


def test_extrapolation_removes_the_bias():
    """Samples of the reference itself: the FID falls like 1 / N to 0, and the extrapolation is much nearer to it."""
    reference = exact(16)
    groups = gaussian_groups(64, 100, 16, 3)
    values = [
        np.mean([distance_of(merged(groups[i : i + k]), reference) for i in range(0, 64, k)]) for k in (1, 2, 4, 8)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(values))
    assert abs(at_infinity([100, 200, 400, 800], values)) < values[-1] / 5


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_nearest_distances(side):
    others = pictures(40, 1, side=side)
    others[7] = np.where(np.arange(side * side * 3).reshape(side, side, 3) % 2, 255, 0)
    others[8] = others[7]
    others[8, 0, 0, 0] ^= 1  # nearly a copy: float32 cannot separate them at side 32
    mine = np.concatenate([others[[3, 7, 8]], pictures(5, 2, side=side)])
    got = nearest_distances(mine, others, chunk=4)
    brute = ((mine[:, None].astype(float) - others[None]) ** 2).mean((2, 3, 4)) ** 0.5
    np.testing.assert_allclose(got, brute.min(1), rtol=1e-12)
    assert (got[:3] == 0).all()
    with pytest.raises(ValueError, match="9, 9"):
        nearest_distances(mine, pictures(3, side=9))
