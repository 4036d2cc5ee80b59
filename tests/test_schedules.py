"""Noise schedules: the papers' numbers, the index convention, and the round trip through a card."""

import dataclasses
import json
import math

import pytest
import torch
from torch.testing import assert_close

from hw3utils.schedules import (
    NoiseSchedule,
    cosine_schedule,
    geometric_sigmas,
    linear_schedule,
    schedule_from_card,
)

SCHEDULES = [linear_schedule(), linear_schedule(10, 0.01, 0.3), linear_schedule(1), cosine_schedule(50)]


def test_linear_schedule_has_the_reference_numbers():
    schedule = linear_schedule()
    assert schedule.T == 1000
    assert schedule.beta[1].item() == 1e-4
    assert schedule.beta[1000].item() == 0.02
    assert_close(schedule.beta[1:].diff(), torch.full((999,), 0.0199 / 999, dtype=torch.float64), atol=1e-15, rtol=0)
    assert schedule.alpha_bar[-1].item() == pytest.approx(4.036e-5, rel=1e-4)
    first_under_half = int((schedule.alpha_bar < 0.5).nonzero()[0])
    assert first_under_half == 260


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.name}-{s.T}")
def test_tables_count_from_the_data_and_fit_together(schedule):
    tables = [schedule.beta, schedule.alpha, schedule.alpha_bar, schedule.signal, schedule.noise]
    for table in tables:
        assert table.shape == (schedule.T + 1,)
        assert table.dtype == torch.float64
    assert [table[0].item() for table in tables] == [0, 1, 1, 1, 0]
    assert_close(schedule.alpha, 1 - schedule.beta)
    product = 1.0
    for t in range(1, schedule.T + 1):
        product *= 1 - schedule.beta[t].item()
        assert schedule.alpha_bar[t].item() == pytest.approx(product, rel=1e-12)
    assert_close(schedule.signal**2 + schedule.noise**2, torch.ones(schedule.T + 1, dtype=torch.float64))
    assert_close(schedule.snr[1:], (schedule.signal / schedule.noise)[1:] ** 2)
    assert schedule.snr[0] == math.inf
    assert bool((schedule.snr.diff() < 0).all())


def test_cosine_schedule_is_equation_17_until_beta_is_clipped():
    T, s = 100, 0.008
    schedule = cosine_schedule(T)
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    expected = torch.tensor([value / f[0] for value in f], dtype=torch.float64)
    assert_close(schedule.alpha_bar[:-1], expected[:-1])
    assert schedule.beta[-1].item() == 0.999
    assert_close(schedule.alpha_bar[-1], schedule.alpha_bar[-2] * 0.001)


def test_from_beta_and_from_alpha_bar_agree_with_the_maker():
    schedule = linear_schedule(20)
    assert NoiseSchedule.from_beta(schedule.beta[1:]) == schedule
    assert NoiseSchedule.from_beta(schedule.beta[1:].tolist()) == schedule
    assert_close(NoiseSchedule.from_alpha_bar(schedule.alpha_bar).beta, schedule.beta, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", [*SCHEDULES, NoiseSchedule.from_beta([0.1, 0.5])], ids=lambda s: f"{s.name}-{s.T}")
def test_card_survives_json(schedule):
    again = schedule_from_card(json.loads(json.dumps(schedule.card())))
    assert again == schedule
    assert again.name == schedule.name
    assert hash(again) == hash(schedule)


def test_schedules_compare_by_value_and_are_frozen():
    assert linear_schedule(10) != linear_schedule(11)
    assert linear_schedule(10) != "linear"
    assert len({linear_schedule(10), linear_schedule(10), cosine_schedule(10)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear_schedule(10).T = 5


def test_the_given_table_is_copied():
    beta = torch.tensor([0.1, 0.2], dtype=torch.float64)
    schedule = NoiseSchedule.from_beta(beta)
    beta[0] = 0.9
    assert schedule.beta[1].item() == 0.1


def test_geometric_sigmas_fall_by_one_factor_and_end_exactly():
    sigmas = geometric_sigmas(20, 1, 10)
    assert sigmas.dtype == torch.float64
    assert sigmas[0].item() == 20
    assert sigmas[-1].item() == 1
    assert_close(sigmas[1:] / sigmas[:-1], torch.full((9,), 20 ** (-1 / 9), dtype=torch.float64))
    assert geometric_sigmas(3.0, 3.0, 1).tolist() == [3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_schedule(0), r"T is 0"),
        (lambda: linear_schedule(10.0), r"T is 10.0"),
        (lambda: linear_schedule(True), r"T is True"),
        (lambda: linear_schedule(10, 0.0), r"beta_1 is 0.0"),
        (lambda: linear_schedule(10, 1e-4, 1.0), r"beta_T is 1.0"),
        (lambda: linear_schedule(10, math.nan), r"beta_1 is nan"),
        (lambda: linear_schedule(10, "a"), r"beta_1 is 'a'"),
        (lambda: linear_schedule(3000, 0.5, 0.9), r"alpha_bar\[T\] is 0"),
        (lambda: cosine_schedule(-3), r"T is -3"),
        (lambda: cosine_schedule(10, s=0), r"s is 0.0"),
        (lambda: cosine_schedule(10, max_beta=1), r"max_beta is 1.0"),
        (lambda: NoiseSchedule(torch.tensor([0.1, 0.2])), r"beta\[0\] is 0.1\d*"),
        (lambda: NoiseSchedule(torch.zeros(1)), r"beta has 1 entries"),
        (lambda: NoiseSchedule.from_beta(torch.rand(2, 2)), r"beta has shape \(2, 2\)"),
        (lambda: NoiseSchedule.from_beta([0.1, math.inf]), r"beta holds NaN or infinity"),
        (lambda: NoiseSchedule.from_beta([0.1, 1.5]), r"beta\[1:\] lies in \[0.1, 1.5\]"),
        (lambda: NoiseSchedule.from_beta("beta"), r"beta is str"),
        (lambda: NoiseSchedule.from_alpha_bar([0.9, 0.5]), r"alpha_bar is \[0.9, 0.5\]"),
        (lambda: NoiseSchedule.from_alpha_bar([1, 0.5, 0.5]), r"expected strictly decreasing numbers above 0"),
        (lambda: geometric_sigmas(1, 20, 10), r"sigma_max is 1.0 and sigma_min 20.0"),
        (lambda: geometric_sigmas(1, 0, 10), r"sigma_min is 0.0"),
        (lambda: geometric_sigmas(2, 1, 0), r"n is 0"),
        (lambda: geometric_sigmas(1 + 1e-15, 1, 100), r"not all different in float64"),
        (lambda: schedule_from_card({"T": 10}), r"expected a mapping with the key 'name'"),
        (lambda: schedule_from_card({"name": "sigmoid"}), r"the schedule's name is 'sigmoid'"),
        (lambda: schedule_from_card({"name": "linear", "steps": 3}), r"unknown keys in \['steps'\]"),
        (
            lambda: schedule_from_card({"name": "custom", "T": 3}),
            r"custom schedule has the keys \['T'\]",
        ),
        (lambda: schedule_from_card({"name": "linear", "T": "ten"}), r"T is 'ten'"),
    ],
)
def test_wrong_arguments_are_named_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
