"""The classifier of sprites: its parts, its training, and the shipped weights against their card."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import hw3utils
from hw3utils.datasets import attribute_data
from hw3utils.fid import features_of
from hw3utils.learning.classifier import (
    CLASSIFIER,
    ClassificationObjective,
    accuracy,
    attribute_tensors,
    train_classifier,
)
from hw3utils.learning.features import feature_extractor
from hw3utils.learning.networks import SpriteClassifier
from hw3utils.learning.recipes import HELDOUT_PICTURES
from hw3utils.learning.training import heldout_loss
from hw3utils.learning.weights import load_weights
from hw3utils.sprites import ATTRIBUTE_VALUES, draw_sprites, sprite_set


@pytest.fixture(scope="module")
def heldout():
    _, drawn = sprite_set()
    return attribute_tensors(drawn)


def test_untrained_answers_are_uniform_on_average():
    """Zero weights give the loss of a uniform guess: the mean of log(number of values)."""
    sizes = {name: len(values) for name, values in ATTRIBUTE_VALUES.items()}
    network = SpriteClassifier(attributes=sizes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    objective = ClassificationObjective()
    pictures, attributes = attribute_tensors(draw_sprites(20))
    loss = objective(network, *objective.draw((pictures, attributes), torch.Generator().manual_seed(0)))
    want = sum(map(math.log, sizes.values())) / len(sizes)
    torch.testing.assert_close(loss, torch.full((20,), want), rtol=1e-5, atol=0)


def test_noise_has_the_size_that_was_asked_for():
    objective = ClassificationObjective(noise=0.3)
    pictures = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    x, _ = objective.draw((pictures, torch.zeros(400, 20)), torch.Generator().manual_seed(0))
    # E[(u z)^2] = 0.3^2 / 3 for u uniform in [0, 0.3]
    assert math.isclose(float((x + 1).square().mean()), 0.03, rel_tol=0.15)
    still, _ = ClassificationObjective(noise=0).draw((pictures, torch.zeros(400, 20)), torch.Generator())
    assert torch.equal(still, -torch.ones_like(still))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="attributes"):
        SpriteClassifier(attributes={})
    with pytest.raises(ValueError, match="kind"):
        SpriteClassifier(attributes={"kind": 0})
    with pytest.raises(ValueError, match="noise"):
        ClassificationObjective(noise=-1)
    network = SpriteClassifier(attributes={"class": 5})
    for wrong in (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="16, 16"):
            network(wrong)


def test_a_short_training_learns_and_writes_its_card(tmp_path):
    config = dataclasses.replace(CLASSIFIER, steps=60, batch_size=64, ema_decay=0.9, heldout_every=20)
    data = attribute_data(2000, 200)
    steps = list(train_classifier(data, config, out=tmp_path, device=torch.device("cpu")))
    assert steps[-1].heldout < steps[19].heldout
    network, schedule, card = load_weights(tmp_path)
    assert schedule is None
    assert isinstance(network, SpriteClassifier)
    assert card["accuracy"].keys() == ATTRIBUTE_VALUES.keys()
    assert card["accuracy"]["class"] > 0.4  # a guess is right in 0.2


def test_shipped_weights_are_those_of_the_card(heldout):
    network, schedule = hw3utils.load_pretrained("classifier")
    card = hw3utils.pretrained_card("classifier")
    assert schedule is None
    assert card["config"] == dataclasses.asdict(CLASSIFIER)
    assert card["command"].startswith("hw3 train --recipe classifier")
    pictures, attributes = (tensor[:HELDOUT_PICTURES] for tensor in heldout)
    loss = heldout_loss(network, ClassificationObjective(), (pictures, attributes))
    assert math.isclose(loss, card["curve"]["heldout"][-1][1], rel_tol=0.01)
    right = accuracy(network, *heldout)
    for name, share in card["accuracy"].items():
        assert abs(right[name] - share) < 0.005, name
    assert right["class"] > 0.99
    assert np.mean(list(right.values())) > 0.95


def test_features_are_those_of_the_classifier_and_separate_the_classes(heldout):
    network, _ = hw3utils.load_pretrained("classifier")
    extractor = feature_extractor("sprites")
    pictures, attributes = (tensor[:500] for tensor in heldout)
    features = torch.cat(list(features_of(pictures, extractor)))
    with torch.no_grad():
        scale = hw3utils.pretrained_card("classifier")["feature_scale"]
        torch.testing.assert_close(features, scale * network.features(pictures.float() / 127.5 - 1))
    assert math.isclose(float(features.var(0).mean()), 1, rel_tol=0.1)
    centres = torch.stack([features[attributes[:, 0] == c].mean(0) for c in range(5)])
    nearest = torch.cdist(features, centres).argmin(1)
    assert float((nearest == attributes[:, 0]).double().mean()) > 0.8
