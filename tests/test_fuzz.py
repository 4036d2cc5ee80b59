"""Readers of files and makers of schedules and mixtures on random input (hypothesis): a value or one sentence."""

import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from hw3utils import datasets as sets
from hw3utils import files, mixtures, schedules, sprites
from hw3utils.learning import weights
from hw3utils.learning.networks import UNet

fuzz = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**6), 10**6)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
REFUSED = (ValueError, FileNotFoundError)


def one_sentence(error):
    assert str(error)
    assert "\n" not in str(error)


def damaged(content):
    """Bytes of a file, truncated or with some bytes changed, or others."""
    cut = st.integers(0, len(content) - 1).map(lambda n: content[:n])
    places = st.integers(0, min(len(content), 400) - 1)
    change = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)

    def changed(pairs):
        result = bytearray(content)
        for place, byte in pairs:
            result[place] = byte
        return bytes(result)

    return cut | change.map(changed) | st.binary(max_size=200)


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 16, 16, 3), np.uint8))
    return buffer.getvalue()


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


TINY = UNet(widths=(8,), blocks_down=(1,), blocks_up=(1,), groups=4, time_width=4)


@fuzz
@given(damaged(npy()))
def test_npy(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npy"
        path.write_bytes(content)
        try:
            images = sets.read_pictures(path)
        except REFUSED as error:
            one_sentence(error)
        else:
            assert images.dtype == np.uint8
            assert images.ndim == 4


@fuzz
@given(damaged(png()))
def test_png(content):
    with tempfile.TemporaryDirectory() as folder:
        for name in "ab":
            (Path(folder) / f"{name}.png").write_bytes(content)
        (Path(folder) / "good.png").write_bytes(png())
        for read in (sprites.load_sprites, lambda source: list(sets.open_set(source))):
            try:
                read(folder)
            except REFUSED as error:
                one_sentence(error)


@fuzz
@given(damaged(save({"a": torch.zeros(3)})))
def test_safetensors(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(content)
        try:
            tensors = files.read_tensors(path)
        except REFUSED as error:
            one_sentence(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


def load_with(change):
    """The network of the tiny weights with this change of their card, None when it is refused in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        weights.save_weights(path, TINY.state_dict(), network=TINY, schedule=schedules.linear_schedule(5), card={})
        card = files.read_json(path.with_suffix(".json"))
        changed = change(card)
        path.with_suffix(".json").write_text(json.dumps(changed))
        try:
            network, _, _ = weights.load_weights(path)
        except REFUSED as error:
            one_sentence(error)
            return None
        return network


@fuzz
@given(st.sampled_from(["network", "schedule", "sha256"]), values)
def test_card(name, value):
    assert load_with(lambda card: card | {name: value}) is None


@fuzz
@given(st.dictionaries(st.sampled_from(list(TINY.config)), values, min_size=1))
def test_network_of_a_card(change):
    network = load_with(lambda card: card | {"network": card["network"] | change})
    assert network is None or isinstance(network, UNet)


@fuzz
@given(numbers | st.text(max_size=4), numbers | st.none(), numbers | st.none())
def test_linear_schedule(T, first, last):
    if isinstance(T, int | float) and T > 5000:
        return  # possible, and large
    try:
        schedule = schedules.linear_schedule(T, first, last)
    except REFUSED as error:
        one_sentence(error)
    else:
        bar = schedule.alpha_bar
        assert float(bar[0]) == 1
        assert bool((bar.diff() < 0).all())
        assert bool((bar > 0).all())


@fuzz
@given(st.dictionaries(st.sampled_from(["name", "T", "beta_1", "beta_T", "s"]), values) | values)
def test_schedule_card(card):
    try:
        schedule = schedules.schedule_from_card(card)
    except REFUSED as error:
        one_sentence(error)
    else:
        assert bool(schedule.alpha_bar.isfinite().all())


@fuzz
@given(
    st.lists(numbers, max_size=3),
    st.lists(st.lists(numbers, min_size=1, max_size=2), max_size=3),
    st.lists(numbers, max_size=3),
)
def test_mixture(weights, means, variances):
    try:
        mixture = mixtures.GaussianMixture(weights, means, variances)
    except REFUSED as error:
        one_sentence(error)
    else:
        assert math.isclose(float(mixture.weights.sum()), 1, rel_tol=1e-6)
        assert bool(mixture.score(mixture.means).isfinite().all())


@fuzz
@given(values)
def test_student_number(number):
    try:
        mixture = mixtures.student_mixture(number)
    except REFUSED as error:
        one_sentence(error)
    else:
        assert 0.15 <= float(mixture.weights.min()) <= 0.25


@fuzz
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_json(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card.json"
        path.write_bytes(content)
        try:
            assert isinstance(files.read_json(path), dict)
        except REFUSED as error:
            one_sentence(error)
