"""The bench: its arithmetic on made-up times, its order, its table, its commands."""

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from hw3utils.__main__ import main
from hw3utils.bench import parts, peers, timing
from hw3utils.bench.peers import ContextUnet
from hw3utils.devices import compiled
from hw3utils.learning.networks import UNet

CPU = torch.device("cpu")


def tiny():
    return UNet(widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), groups=4, time_width=16)


@pytest.fixture
def tiny_contenders(monkeypatch):
    monkeypatch.setattr(parts, "our_network", tiny)
    monkeypatch.setattr(peers, "CONTENDERS", {"course": lambda: ContextUnet(features=8)})


def test_runs_take_turns_and_two_rounds_warm_up():
    order, ticks = [], itertools.count()
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.alternate(runs, rounds=3, device=CPU, clock=lambda: next(ticks))
    assert "".join(order) == "ab" * 5
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_rows_give_medians_quartiles_and_ratios():
    rows = [timing.Row("ours", [1.0, 2.0, 3.0, 4.0, 5.0], {"parameters": 7}), timing.Row("theirs", [12.0])]
    assert (rows[0].median, rows[0].quartiles) == (3.0, (2.0, 4.0))
    head, ours, theirs = timing.table(rows, title="time").splitlines()
    assert head.split()[-1] == "parameters"
    assert ours.split() == ["ours", "3000.00", "2000.00", "to", "4000.00", "0.3333", "1.00", "7"]
    assert theirs.split()[-1] == "4.00"


def test_each_group_has_its_own_first_row():
    rows = [timing.Row(f"{g} {n}", [n * k], group=g) for g, k in (("a", 1.0), ("b", 10.0)) for n in (1, 2)]
    assert [line.split()[-1] for line in timing.table(rows, title="time").splitlines()[1:]] == ["1.00", "2.00"] * 2


def test_ratios_are_taken_within_a_round():
    # A machine that is ten times slower in the second round does not touch them.
    rows = [
        timing.Row("ours, fp32", [2.0, 20.0, 2.0]),
        timing.Row("ours, bf16", [1.0, 10.0, 1.0]),
        timing.Row("theirs", [8.0, 80.0, 6.0]),
    ]
    made = {(pair["ours"], pair["other"]): (pair["ratio"], pair["quartiles"]) for pair in timing.ratios(rows)}
    assert made == {
        ("ours, fp32", "theirs"): (4.0, [3.5, 4.0]),
        ("ours, bf16", "theirs"): (8.0, [7.0, 8.0]),
        ("ours, bf16", "ours, fp32"): (2.0, [2.0, 2.0]),
    }


def test_rates_and_shares():
    row = timing.Row("ours", [0.5])
    result = {"GFLOP/s": {"wall": {"fp32": 40.0}}, "wall": [row]}
    timing.add_facts(result, {"n": {"MFLOP/picture": 100.0}}, {"ours": ("n", "fp32", 30)}, 10, {"ours": 7.0})
    # 30 passes of 0.1 GFLOP in half a second are 6 GFLOP/s, 15 % of 40.
    expected = {"pictures/s": 20.0, "MFLOP/picture": 100.0, "of matmul %": 15.0, "peak MB": 7.0}
    assert row.extra == pytest.approx(expected)


def test_a_call_of_many_steps_is_divided(monkeypatch):
    monkeypatch.setattr(timing, "matmul_rate", lambda *_, **__: 1e9)
    monkeypatch.setattr(timing, "alternate", lambda runs, **_: {name: [50.0] for name in runs})
    options = timing.Options(rounds=1)
    result = timing.two_measures({"a": print, "b": print}, options=options, device=CPU, desc="", calls={"b": 50})
    assert [row.seconds for row in result["wall"]] == [[50.0], [1.0]]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with timing.threads(1):
        assert torch.get_num_threads() == 1
    with timing.threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_flops_of_a_known_layer():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x, t):
            return self.conv(x)

    assert timing.flops_per_picture(One()) == 2 * 3 * 8 * 9 * 256


def test_compiled_network_answers_as_the_plain_one():
    network = tiny().eval()
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


def test_what_was_compiled_for_one_instruction_set_is_not_run_on_another(tmp_path):
    """One cache, as torch has it for a user: with the code of avx2 in it, plain code crashed or did not compile."""
    for capability in ("avx2", "default"):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


def test_one_step_is_the_same_for_every_contender():
    for make in (lambda: ContextUnet(features=8), tiny):
        network = make()
        before = [p.clone() for p in network.parameters()]
        parts.step_of(network, "fp32", CPU, batch_size=4)()
        assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_memory_of_a_fresh_process_is_its_own():
    big = torch.ones(100_000_000)
    peak = parts.peak_memory(name="ours", device="cpu", kind="sample", n=2)
    # The 400 MB of this process must not be in it.
    assert 1 < peak < 300
    assert len(big)


def test_failed_memory_measurement_is_one_sentence(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nKilled: too large\n")
    monkeypatch.setattr(parts.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match="failed: Killed: too large"):
        parts.peak_memory(name="ours", device="cpu")


def test_train_and_sample_print_and_write_everything(tiny_contenders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "peak_memory", lambda **work: 12.5)
    path = tmp_path / "bench.json"
    words = "bench train sample --rounds 1 --batch-size 2 --nfe 2 --threads 1 --no-compile --device cpu"
    assert main([*words.split(), "--json", str(path)]) == 0
    text = capsys.readouterr().out
    for word in ("ours, fp32", "ours, bf16", "course, fp32", "pictures/s", "parameters", "MFLOP/picture", "NFE"):
        assert word in text
    for word in (
        "of matmul %",
        "peak MB",
        "process time, 1 thread",
        "wall time, 1 thread",
        "quartiles",
        "times faster than course",
    ):
        assert word in text
    results = json.loads(path.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
    assert results["options"]["rounds"] == 1
    for measure in ("process", "wall"):
        assert {row["name"] for row in results["train"][measure]} == {"ours, fp32", "ours, bf16", "course, fp32"}
        rows = results["sample"][measure]
        assert {row["extra"]["NFE"] for row in rows} == {2}
        assert all(len(row["seconds"]) == 1 and math.isfinite(row["seconds"][0]) for row in rows)
        assert {(p["ours"], p["other"]) for p in results["sample"]["ratios"][measure]} == {
            ("ours, DDIM", "course, DDIM")
        }


def test_growth_tables(tiny_contenders, monkeypatch):
    monkeypatch.setattr(parts, "_sampling_in_batches", lambda *_, **__: lambda: None)
    options = timing.Options(rounds=1, batch_size=2, memory=False, growth=True)
    rows = parts._growth_of_training(CPU, options)
    assert [(row["batch"], row["side"]) for row in rows] == [(1, 16), (2, 16), (8, 16), (2, 32), (2, 64)]
    rows = parts._growth_of_sampling(CPU, options)
    assert [row["pictures"] for row in rows] == [64, 256, 1024, 4096, 64, 64]
    assert timing.columns(rows).splitlines()[0].split() == ["pictures", "side", "wall", "ms"]


def test_without_a_compiler_that_row_is_named_and_left_out(tiny_contenders, monkeypatch):
    def fails(network):
        def call(x, t):
            raise RuntimeError("no C++ compiler\nmore")

        return call

    monkeypatch.setattr(parts, "compiled", fails)
    result = parts.bench_sample(CPU, timing.Options(rounds=1, nfe=1, memory=False))
    assert result["missing"] == ["ours compiled, DDIM: left out, torch.compile does not work here (no C++ compiler)"]
    assert "compiled" not in "".join(row.name for row in result["wall"])


def test_race_gives_both_losses_at_equal_steps_and_the_time_to_the_goal():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data = (pictures, torch.zeros(8, dtype=torch.int64))
    make = {"ours": tiny, "course": lambda: ContextUnet(features=8)}
    race = parts.race_to_loss(CPU, pictures=data, heldout=data, steps=4, every=2, make=make)
    assert [point[0] for point in race["curves"]["ours, bf16"]] == [2, 4]
    assert race["course loss"] == race["curves"]["course, fp32"][-1][1]
    assert race["our loss"] == race["curves"]["ours, bf16"][-1][1]
    assert "held-out loss at step 4" in timing.report_race(race)
    lost = race | {"our step": None, "process ratio": None}
    assert "not there after 4 steps" in timing.report_race(lost)
    json.dumps(race, allow_nan=False)


def test_distances_go_to_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["bench", "fid", "--rounds", "1", "--device", "cpu", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["fid"]["process"]
    assert {row["name"] for row in rows} >= {"D = 128, ours", "D = 128, torchmetrics"}
    assert "D = 128, ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("bench cooking", "'cooking'"),
        ("bench fid --device abacus", "'abacus'"),
        ("bench sample --nfe 1001", "1001"),
        ("bench sample --rounds 0", "'0'"),
        ("bench sample --threads some", "'some'"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(words, expected, capsys):
    try:
        code = main(words.split())
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error
