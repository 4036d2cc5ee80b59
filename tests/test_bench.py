"""The bench: its statistics on given times, its order, its tables, its command."""

import itertools
import json
import math
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from tiny import unet
from torch import nn
from torch.utils.benchmark import Measurement, TaskSpec

from hw3utils.__main__ import main
from hw3utils.bench import parts, peers, timing
from hw3utils.bench.peers import ContextUnet
from hw3utils.devices import compiled

CPU = torch.device("cpu")


@pytest.fixture
def tiny_contenders(monkeypatch):
    monkeypatch.setattr(parts, "our_network", unet)
    monkeypatch.setattr(peers, "CONTENDERS", {"course": lambda: ContextUnet(features=8)})


def test_runs_take_turns_and_two_rounds_warm_up():
    order, ticks = [], itertools.count()
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    measured = timing.measure(runs, rounds=3, clock=lambda: next(ticks))
    assert "".join(order) == "ab" * 5
    assert {name: taken.times for name, taken in measured.items()} == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_ratios_are_taken_within_a_round():
    # A machine that is ten times slower in the second round does not change them.
    times = {"ours, fp32": [2.0, 20.0, 2.0], "ours, bf16": [1.0, 10.0, 1.0], "theirs": [8.0, 80.0, 6.0]}
    measured = {name: Measurement(1, seconds, TaskSpec(name, "")) for name, seconds in times.items()}
    found = {(pair["ours"], pair["other"]): (pair["ratio"], pair["quartiles"]) for pair in timing.ratios(measured)}
    assert found == {
        ("ours, fp32", "theirs"): (4.0, (3.5, 4.0)),
        ("ours, bf16", "theirs"): (8.0, (7.0, 8.0)),
        ("ours, bf16", "ours, fp32"): (2.0, (2.0, 2.0)),
    }


def test_rows_have_rates_and_the_ratio_to_the_first_of_their_group(monkeypatch):
    taken = {"D = 1, a": [0.5], "D = 2, a": [0.1], "D = 2, b": [0.3]}
    measured = {name: Measurement(1, seconds, TaskSpec(name, "")) for name, seconds in taken.items()}
    monkeypatch.setattr(parts, "measure", lambda runs, **_: measured)
    facts = {"D = 1, a": {"pictures": 10, "passes": 30, "MFLOP/picture": 100.0, "peak MB": 7.0}}
    result = parts.time_both({}, facts, parts.Options(threads=1), CPU, "")
    first, *rest = result["wall"]["rows"]
    # 30 passes of 0.1 GFLOP in half a second are 6 GFLOP/s.
    assert first["pictures/s"] == pytest.approx(20)
    assert first["GFLOP/s"] == pytest.approx(6)
    assert [row["times first"] for row in rest] == pytest.approx([1, 3])
    text = parts.report("fid", {"measures": result, "unit": "distance"}, CPU)
    assert "500.00" in text
    assert "peak MB" in text


def test_threads_are_restored():
    before = torch.get_num_threads()
    with timing.cpu_threads(1) as n:
        assert torch.get_num_threads() == n == 1
    with timing.cpu_threads(None) as n:
        assert torch.get_num_threads() == n == before
    assert torch.get_num_threads() == before


def test_facts_of_a_known_layer():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x, t):
            return self.conv(x)

    assert parts.network_facts(One()) == {"parameters": 224, "MFLOP/picture": 2 * 3 * 8 * 9 * 256 / 1e6}


def test_a_compiled_network_gives_the_output_of_the_plain_one():
    # One level: compiling takes a second for each block.
    network = unet(widths=(8,), blocks_down=(1,), blocks_up=(1,)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1, generator=generator)
        x, t = torch.randn(3, 3, 8, 8, generator=generator), torch.tensor([1, 5, 9])
        torch.testing.assert_close(compiled(network)(x, t), network(x, t), rtol=1e-5, atol=1e-5)


COMPILED = """
import torch
from hw3utils.devices import compiled; from hw3utils.learning.networks import ScoreMLP

network = ScoreMLP(width=32).eval()
x = torch.linspace(-3, 3, 64).reshape(32, 2)
with torch.no_grad():
    torch.testing.assert_close(compiled(network)(x), network(x), rtol=1e-5, atol=1e-6)
"""


def test_code_compiled_for_one_instruction_set_is_not_run_on_another(tmp_path):
    """Both use one cache, as for a user: with code for avx2 in it, the default crashed or did not compile."""
    for capability in ("avx2", "default"):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


def test_a_step_changes_the_weights_of_every_contender():
    for network in (ContextUnet(features=8), unet()):
        before = [p.clone() for p in network.parameters()]
        parts.training_step(network, "fp32", CPU, batch_size=4)()
        assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_memory_of_a_new_process_is_its_own():
    big = torch.ones(100_000_000)
    peak = parts.peak_memory(CPU, parts.Options(), name="ours", kind="sample", n=2)
    # The 400 MB of this process must not be in it.
    assert 1 < peak["peak MB"] < 300
    assert len(big)


def test_a_process_that_was_killed_is_one_sentence(monkeypatch):
    class Killed:
        def __init__(self, *_, **__):
            raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(parts, "ProcessPoolExecutor", Killed)
    with pytest.raises(OSError, match="terminated abruptly"):
        parts.peak_memory(CPU, parts.Options(), name="ours")


def test_train_and_sample_print_and_write_everything(tiny_contenders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "peak_memory", lambda *_, **__: {"peak MB": 12.5})
    path = tmp_path / "bench.json"
    words = "bench train sample --rounds 1 --batch-size 2 --nfe 2 --threads 1 --no-compile --device cpu"
    assert main([*words.split(), "--json", str(path)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert "1 thread" in first
    assert "GFLOP/s" in first
    text = "\n".join(rest)
    for word in ("pictures/s", "parameters", "MFLOP/picture", "NFE", "peak MB", "quartiles", "process time, 1 thread"):
        assert word in text
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
    results = json.loads(path.read_text())
    assert results["options"]["rounds"] == 1
    for measure in ("process", "wall"):
        trained, sampled = (results[part]["measures"][measure] for part in ("train", "sample"))
        assert {row["name"] for row in trained["rows"]} == {"ours, fp32", "ours, bf16", "course, fp32"}
        assert {row["NFE"] for row in sampled["rows"]} == {2}
        assert all(len(row["seconds"]) == 1 and math.isfinite(row["seconds"][0]) for row in sampled["rows"])
        assert [(p["ours"], p["other"]) for p in sampled["ratios"]] == [("ours, DDIM", "course, DDIM")]


def test_growth_tables(monkeypatch):
    options = parts.Options(rounds=1, memory=False)
    rows = parts._growth(CPU, options, "step", {(1, 16): lambda: None, (4, 32): lambda: None})
    assert [(row["pictures"], row["side"]) for row in rows] == [(1, 16), (4, 32)]
    assert timing.columns(rows).splitlines()[0].split() == ["pictures", "side", "wall", "ms"]


def test_without_a_compiler_that_row_is_named_and_left_out(tiny_contenders, monkeypatch):
    def fails(network):
        def call(x, t):
            raise RuntimeError("no C++ compiler\nmore")

        return call

    monkeypatch.setattr(parts, "compiled", fails)
    result = parts.bench_sample(CPU, parts.Options(rounds=1, nfe=1, memory=False))
    [missing] = result["missing"]
    assert missing.startswith("ours compiled, DDIM")
    assert "no C++ compiler" in missing
    assert "compiled" not in "".join(row["name"] for row in result["measures"]["wall"]["rows"])


def test_the_race_gives_both_losses_at_equal_steps_and_the_time_to_the_goal():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data = (pictures, torch.zeros(8, dtype=torch.int64))
    make = {"ours": unet, "course": lambda: ContextUnet(features=8)}
    race = parts.race_to_loss(CPU, pictures=data, heldout=data, steps=4, every=2, make=make)
    assert [point[0] for point in race["curves"]["ours, bf16"]] == [2, 4]
    assert race["goal"] == race["curves"]["course, fp32"][-1]
    assert f"{race['goal'][1]:.4f}" in parts.report_race(race)
    assert "2.00" in parts.report_race(race | {"reached": [2, 0.1, 1.0, 1.0], "ratios": [2.0, 3.0]})
    assert "not reached" in parts.report_race(race | {"reached": None, "ratios": None})
    json.dumps(race, allow_nan=False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("bench cooking", "'cooking'"),
        ("bench fid --device abacus", "'abacus'"),
        ("bench sample --nfe 1001", "1001"),
        ("bench sample --rounds 0", "'0'"),
        ("bench sample --threads some", "'some'"),
        ("bench fid --nfe 7", "--nfe"),
        ("bench score --growth", "--growth"),
        ("bench fid --rounds 1 --json .", "Is a directory"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(words, expected, capsys):
    try:
        code = main(words.split())
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error
