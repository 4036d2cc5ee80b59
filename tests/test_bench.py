"""The bench: its arithmetic on made-up times, its order, its peers."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from hw3utils import bench
from hw3utils.__main__ import main
from hw3utils.networks import UNet, compiled
from hw3utils.peers import ContextUnet

CPU = torch.device("cpu")


def test_runs_take_turns_and_two_rounds_warm_up():
    order, ticks = [], itertools.count()
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = bench.alternate(runs, rounds=3, device=CPU, clock=lambda: next(ticks))
    assert "".join(order) == "ab" * 5
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_rows_give_medians_quartiles_and_ratios():
    rows = [bench.Row("ours", [1.0, 2.0, 3.0, 4.0, 5.0], {"parameters": 7}), bench.Row("theirs", [12.0], {})]
    assert (rows[0].median, rows[0].quartiles) == (3.0, (2.0, 4.0))
    head, ours, theirs = bench.table(rows, title="time").splitlines()
    assert head.split()[-1] == "parameters"
    assert ours.split() == ["ours", "3000.00", "2000.00", "4000.00", "0.3", "1.00x", "7"]
    assert theirs.split()[-1] == "4.00x"


def test_flops_of_a_known_layer():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x, t):
            return self.conv(x)

    assert bench.flops_per_picture(One()) == 2 * 3 * 8 * 9 * 256


def test_sizes_of_the_course_network_and_of_ours():
    course = ContextUnet()
    assert sum(p.numel() for p in course.parameters()) / 1e6 == pytest.approx(1.48, abs=0.005)
    assert bench.flops_per_picture(course) / 1e6 == pytest.approx(301, abs=1)
    assert 1e6 < sum(p.numel() for p in UNet().parameters()) < 2e6


def test_a_missing_peer_is_named_and_left_out(monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    made, missing = bench.available()
    assert set(made) == {"ours", "course ContextUnet, 64"}
    assert len(missing) == 2
    assert all("not installed" in line for line in missing)


def test_compiled_network_answers_as_the_plain_one():
    sizes = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}
    network = UNet(**sizes).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1, generator=generator)
        x, t = torch.randn(3, 3, 8, 8, generator=generator), torch.tensor([1, 5, 9])
        torch.testing.assert_close(compiled(network)(x, t), network(x, t), rtol=1e-5, atol=1e-5)


def test_one_step_is_the_same_for_every_contender():
    for make in (ContextUnet, lambda: UNet(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), groups=4)):
        network = make()
        before = [p.clone() for p in network.parameters()]
        bench.step_of(network, "fp32", CPU, batch=4)()
        assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_numbers_go_to_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["bench", "fid", "--rounds", "1", "--device", "cpu", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["fid"]["process"]
    assert {row["name"] for row in rows} >= {"ours, D = 128", "torchmetrics, D = 128"}
    assert all(len(row["seconds"]) == 1 and math.isfinite(row["seconds"][0]) for row in rows)
    assert "ours, D = 128" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys):
    assert main(["bench", "cooking"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'cooking'" in error
    assert "train, sample, score, fid" in error
