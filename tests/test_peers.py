"""The networks that we measure ourselves against."""

import sys

import pytest
import torch

from hw3utils.bench import peers
from hw3utils.bench.parts import network_facts
from hw3utils.bench.peers import ContextUnet, FromDiffusers, available, sample_with_diffusers


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_course_network_has_its_published_size():
    course = ContextUnet()
    assert size(course) / 1e6 == pytest.approx(1.48, abs=0.005)
    assert network_facts(course)["MFLOP/picture"] == pytest.approx(301, abs=1)


def test_course_network_answers_alike_twice_and_knows_no_label():
    course = ContextUnet(features=8).eval()
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 900])
    with torch.no_grad():
        answer = course(x, t)
        assert answer.shape == x.shape
        # A shortcut made anew in every call would fail here.
        assert torch.equal(answer, course(x, t, torch.full((2,), 5)))
        assert not torch.equal(answer, course(x, t, torch.tensor([0, 1])))
        assert not torch.equal(answer, course(x, t + 50))


def test_missing_diffusers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    made, missing = available()
    assert list(made) == ["course ContextUnet 64"]
    assert len(missing) == 2
    assert all("left out, diffusers is not installed" in line for line in missing)


def test_other_errors_of_a_peer_are_not_hidden(monkeypatch):
    def broken():
        raise RuntimeError("no")

    monkeypatch.setattr(peers, "CONTENDERS", {"broken": broken})
    with pytest.raises(RuntimeError, match="no"):
        available()


def test_diffusers_networks_and_schedulers():
    pytest.importorskip("diffusers")
    network = FromDiffusers((32, 64, 64)).eval()
    assert size(network) == pytest.approx(1.62e6, rel=0.01)
    assert network_facts(network)["MFLOP/picture"] == pytest.approx(194, abs=1)
    x, times = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), []

    def none(x, t):
        times.append(t.tolist())
        return torch.zeros_like(x)

    for scheduler in ("DDPM", "DDIM"):
        times.clear()
        assert sample_with_diffusers(scheduler, none, x, steps=4).shape == x.shape
        assert times == [[t, t] for t in (750, 500, 250, 0)]
