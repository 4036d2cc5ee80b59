"""The stored table of the shipped network on sprites: what is measured, and that it is of these weights and data."""

import math

import numpy as np
import pytest
import torch

from hw3utils import load_pretrained, pretrained_card
from hw3utils.bench import flow_table
from hw3utils.learning.features import feature_extractor
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import draw_sprites, load_sprites


@pytest.fixture(scope="module")
def data():
    return load_sprites("embedded")


def test_noise_is_even_over_a_level_round_the_picture(data):
    clean, x = flow_table.held_out(data, 20, 0)
    assert clean.shape == x.shape == (20, 3, 16, 16)
    off = (x - clean) * 127.5
    assert float(off.abs().max()) <= 0.5 + 1e-4
    assert float(off.var()) == pytest.approx(1 / 12, rel=0.05)
    again = flow_table.held_out(data, 20, 0)
    assert torch.equal(again[1], x)


def test_bits_of_a_gaussian_model_are_those_of_the_gaussian(data):
    """The exact predictor of N(0, I) leaves every point where it is, so log p is the normal one."""
    schedule = linear_schedule(40, 0.0025, 0.4)

    def exact(x, t):
        return schedule.noise[t].to(x)[:, None, None, None] * x

    plan = flow_table.PLAN | {"pictures": 6, "steps": [40], "spacing": "uniform"}
    found = flow_table.bits_of(exact, schedule, data, plan)
    _, x = flow_table.held_out(data, 6, plan["seed"])
    normal = (x.double().square() / 2 + math.log(2 * math.pi) / 2).mean() / math.log(2) - math.log2(2 / 255)
    assert found["flow"]["40"]["bits"] == pytest.approx(float(normal), abs=0.05)
    assert found["flow"]["40"]["error by the projections"] < 1e-3
    assert found["bound"]["error"] > 0


def test_spread_of_one_picture_repeated_is_0():
    images = draw_sprites(50, seed=1)[0]
    extractor, label = feature_extractor("sprites"), torch.arange(5).repeat_interleave(10)
    one = np.concatenate([np.repeat(images[i : i + 1], 10, 0) for i in range(5)])
    assert flow_table.spread(one, label, extractor) == pytest.approx(0, abs=1e-6)
    assert flow_table.spread(images, label, extractor) > 1


def test_a_small_plan_is_measured_and_written_with_what_decided_it(data, tmp_path):
    plan = flow_table.PLAN | {"pictures": 2, "steps": [2], "weights": [1.0], "samples": 10, "sampler_steps": 2}
    network, schedule = load_pretrained("sprites")
    found = flow_table.guidance_of(network, schedule, data, feature_extractor("sprites"), plan)
    assert set(found) == {"1"}
    assert 0 <= found["1"]["accuracy"] <= 1
    assert found["1"]["fid"] > 0


def test_the_stored_table_is_of_the_shipped_weights(data):
    stored = flow_table.stored_table()
    assert stored["plan"] == flow_table.PLAN
    assert stored["network"] == pretrained_card("sprites")["sha256"]
    assert stored["features"]["sha256"] == pretrained_card("classifier")["sha256"]
    assert stored["data"]["sha256"] == data.sha256
    assert set(stored["bits"]["flow"]) == {str(steps) for steps in flow_table.PLAN["steps"]}
    assert set(stored["guidance"]) == {f"{w:g}" for w in flow_table.PLAN["weights"]}
