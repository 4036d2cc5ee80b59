"""The distance of two Gaussians against closed forms."""

import math

import pytest
import torch

from hw3utils.fid import frechet_distance


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
