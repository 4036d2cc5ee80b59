"""The shipped weights: their card against the recipe, their results against the card."""

import dataclasses
import math

import pytest
import torch

import hw3utils
from hw3utils.learning.recipes import RECIPES, diffusion_parts, heldout_tensors
from hw3utils.learning.training import heldout_loss
from hw3utils.samplers import sample_ddim, sample_in_batches
from hw3utils.schedules import linear_schedule
from hw3utils.sprites import load_sprites, outline_share, tensor_to_images


@pytest.fixture(scope="module")
def data():
    return load_sprites("embedded")


def test_card_is_the_recipe(data):
    card = hw3utils.pretrained_card("sprites")
    config = card["config"]
    assert (config["steps"], config["batch_size"], config["lr"], config["lr_decay"]) == (50_000, 64, 2e-4, False)
    # A recipe leaves open the arithmetic of the network, and how often a checkpoint is written.
    recipe = dataclasses.asdict(RECIPES["sprites"])
    assert {**config, "precision": "fp32", "checkpoint_every": recipe["checkpoint_every"]} == recipe
    assert card["schedule"] == linear_schedule().card()
    assert card["objective"]["label_dropout"] == 0.1
    assert card["data"]["sha256"] == data.sha256
    assert card["data"]["train"] == 89_400


def test_card_holds_the_curve_and_where_it_comes_from():
    card = hw3utils.pretrained_card("sprites")
    for name in ("train", "heldout"):
        steps, losses = zip(*card["curve"][name], strict=True)
        assert len(steps) >= 200
        assert steps[-1] == 50_000
        assert list(steps) == sorted(set(steps))
        assert losses[-1] < losses[0]
    assert "train --recipe sprites" in card["command"]
    assert len(card["commit"].split()[0]) == 40
    assert card["seconds"] > 0
    assert {"torch", "python", "hw3utils"} <= card["versions"].keys()


@pytest.mark.parametrize("name", ["sprites", "sprites-tuned"])
def test_heldout_loss_is_that_of_the_card(data, name):
    network, schedule = hw3utils.load_pretrained(name)
    assert schedule == linear_schedule()
    _, _, objective = diffusion_parts(data, 0)
    recorded = hw3utils.pretrained_card(name)["curve"]["heldout"][-1][1]
    assert math.isclose(heldout_loss(network, objective, heldout_tensors(data)), recorded, rel_tol=0.01)


def test_samples_are_sprites_and_depend_on_the_seed_alone():
    network, schedule = hw3utils.load_pretrained("sprites")

    def sample(batch_size, seed=0):
        options = {"n": 12, "batch_size": batch_size, "seed": seed, "steps": 25}
        return tensor_to_images(sample_in_batches(sample_ddim, network, schedule, (3, 16, 16), **options))

    samples = sample(12)
    assert (sample(5) == samples).all()
    assert (sample(12, seed=1) != samples).any()
    # Outlines as closed as those of drawn sprites, or nearly; noise has none.
    assert outline_share(samples).mean() > 0.9
    noise = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert outline_share(tensor_to_images(noise)).mean() < 0.5
