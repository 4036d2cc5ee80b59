"""The command line: what each command writes, one sentence for each wrong use, and that no work is lost."""

import contextlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SIZES, default_signals

import hw3utils
import hw3utils.datasets  # which takes load_sprites before a test replaces it
from hw3utils.__main__ import main
from hw3utils.files import read_json, write_json
from hw3utils.learning import recipes
from hw3utils.learning.networks import UNet
from hw3utils.learning.run_files import read_history
from hw3utils.sprites import draw_sprites, load_sprites


@pytest.fixture(scope="module")
def few():
    return load_sprites("embedded", n_train=200, n_test=40)


def shrink(patch, few):
    """Give the commands a small network and few pictures."""
    patch.setattr(recipes, "UNet", lambda **options: UNet(**{**SIZES, **options}))
    patch.setattr("hw3utils.sprites.load_sprites", lambda source, **options: few)


@pytest.fixture
def small(few, monkeypatch):
    shrink(monkeypatch, few)


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "w"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, few)
        assert main(["train", "--steps", "2", "--batch-size", "4", "--device", "cpu", "--out", str(out)]) == 0
    return out


@pytest.fixture
def weights(small, trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "w"))


def test_train_prints_where_its_results_are_and_can_be_resumed(weights, capsys):
    assert (weights / "weights.safetensors").exists()
    again = ["train", "--steps", "5", "--batch-size", "4", "--device", "cpu", "--out", str(weights)]
    assert main([*again, "--resume"]) == 0
    assert len(read_history(weights)[0]) == 5
    assert f"{weights / 'weights.safetensors'}" in capsys.readouterr().out


def test_resume_without_a_checkpoint_begins(small, tmp_path, capsys):
    words = ["--steps", "1", "--batch-size", "4", "--device", "cpu", "--out", str(tmp_path / "new"), "--resume"]
    assert main(["train", *words]) == 0
    assert "step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--sampler", "ddpm", "--steps", "3"],
        ["--sampler", "ddim", "--steps", "3", "--eta", "0.5"],
        ["--sampler", "dpm", "--steps", "3"],
        ["--sampler", "ddim", "--steps", "2", "--label", "food", "--guidance", "2"],
        ["--sampler", "ddim", "--steps", "2", "--label", "4"],
    ],
)
def test_sample_writes_a_grid(weights, tmp_path, capsys, options):
    path = tmp_path / "deep" / "grid.png"
    command = ["sample", "--weights", str(weights), "--n", "12", "--device", "cpu", "--out", str(path), *options]
    assert main(command) == 0
    assert str(path) in capsys.readouterr().out
    first = np.asarray(Image.open(path))
    assert first.shape == (4 * (2 * 17 - 1), 4 * (10 * 17 - 1), 3)
    assert main([*command, "--batch-size", "5"]) == 0
    assert (np.asarray(Image.open(path)) == first).all()
    assert main([*command, "--seed", "1"]) == 0
    assert (np.asarray(Image.open(path)) != first).any()


def test_guidance_0_is_no_label_and_1_is_the_plain_one(tmp_path):
    def picture(*options):
        path = tmp_path / "grid.png"
        command = ["sample", "--sampler", "ddim", "--steps", "2", "--n", "2", "--device", "cpu", "--out", str(path)]
        assert main([*command, *options]) == 0
        return path.read_bytes()

    labelled = picture("--label", "food")
    assert picture("--label", "2", "--guidance", "1") == labelled
    assert picture("--label", "food", "--guidance", "0") == picture() != labelled
    assert picture("--label", "food", "--guidance", "4") != labelled


def test_the_card_may_say_nothing_of_the_data(weights, tmp_path, capsys):
    card = weights / "weights.json"
    command = ["sample", "--weights", str(weights), "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")]
    for data in (None, [], {"class_names": []}):
        write_json(card, {**read_json(card), "data": data})
        assert main([*command, "--label", "4"]) == 0
        assert main([*command, "--label", "food"]) == 2
        assert "'food'" in capsys.readouterr().err


def test_a_training_that_diverges_is_one_sentence_and_exit_code_1(small, tmp_path, capsys):
    command = ["train", "--steps", "40", "--batch-size", "4", "--device", "cpu", "--checkpoint-every", "1"]
    assert main([*command, "--lr", "1e38", "--out", str(tmp_path / "w")]) == 1
    error = capsys.readouterr().err
    assert "diverged" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w" / "weights.safetensors").exists()


def test_data_is_shown_and_previewed(small, tmp_path, capsys):
    path = tmp_path / "preview.png"
    assert main(["data", "--preview", "--out", str(path)]) == 0
    assert "side-facing" in capsys.readouterr().out
    assert Image.open(path).width > 300
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]


WRONG = [
    ([], "COMMAND"),
    (["fly"], "fly"),
    (["run", "²"], "'²'"),
    (["run", "1", "--out", "{file}/x"], "{file}"),
    (["train", "--steps", "1.5"], "'1.5'"),
    (["train", "--lr", "fast"], "'fast'"),
    (["train", "--lr", "inf"], "lr is inf"),
    (["train", "--seed", "4294967296"], "seed is 4294967296"),
    (["train", "--device", "meta"], "'meta'"),
    (["train", "--out", "{weights}"], "checkpoint"),
    (["train", "--out", "{weights}", "--resume", "--batch-size", "4", "--steps", "1"], "steps = 1"),
    (["train", "--out", "{weights}", "--resume", "--batch-size", "5"], "batch_size"),
    (["sample", "--weights", "{weights}/checkpoint.json"], "safetensors"),
    (["sample", "--weights", "{weights}", "--out", "{weights}"], "PNG"),
    (["sample", "--weights", "{weights}", "--label", "²"], "'²'"),
    (["sample", "--weights", "{weights}", "--batch-size", "-1"], "'-1'"),
    (["sample", "--weights", "{weights}", "--device", "cuda:99"], "'cuda:99'"),
    (["bench", "flying"], "'flying'"),
    (["run", "99"], "'99'"),
    (["run", "--profile", "slow"], "slow"),
    (["train", "--steps", "-3"], "'-3'"),
    (["train", "--steps", "many"], "'many'"),
    (["train", "--batch-size", "0"], "'0'"),
    (["train", "--lr", "nan"], "lr is nan"),
    (["train", "--lr", "0"], "lr is 0"),
    (["train", "--seed", "-1"], "seed is -1"),
    (["train", "--device", "toaster"], "toaster"),
    (["train", "--precision", "fp8"], "fp8"),
    (["train", "--recipe", "cake"], "cake"),
    (["train", "--batch-size", "500"], "batch_size is 500"),
    (["train", "--capture"], "--capture"),
    (["train", "--out", "{file}/x"], "{file}"),
    (["sample", "--weights", "nothing"], "'nothing'"),
    (["sample", "--weights", "{weights}", "--sampler", "euler"], "euler"),
    (["sample", "--weights", "{weights}", "--n", "0"], "'0'"),
    (["sample", "--weights", "{weights}", "--steps", "1001"], "1001"),
    (["sample", "--weights", "{weights}", "--sampler", "ddim", "--eta", "3"], "eta"),
    (["sample", "--weights", "{weights}", "--eta", "0.5"], "--eta"),
    (["sample", "--weights", "{weights}", "--guidance", "2"], "--guidance"),
    (["sample", "--weights", "{weights}", "--label", "cat"], "'cat'"),
    (["sample", "--weights", "{weights}", "--label", "5"], "'5'"),
    (["sample", "--weights", "{weights}", "--label", "1", "--guidance", "nan"], "guidance"),
    (["sample", "--weights", "{weights}", "--seed", "-1"], "seed"),
    (["sample", "--weights", "{weights}", "--out", "grid.jpg"], "PNG"),
    (["sample", "--weights", "{weights}", "--out", "{file}/x.png"], "{file}"),
    (["sample", "--weights", "{file}"], "{file}"),
    (["data", "--preview", "--out", "x.txt"], "PNG"),
    (["data", "--out", "x.png"], "--out"),
    (["data", "--preview", "--out", "{weights}"], "PNG"),
    (["sample", "--weights", "{weights}", "--out", "{long}.png"], "too long"),
    (["sample", "--between", "{file}", "{file}", "--seed", "1"], "--seed"),
    (["fid", "{weights}", "{weights}", "--precision", "bf16"], "--precision"),
    (["fid", "{weights}", "{weights}", "--cells", "nonsense"], "--cells"),
    (["fid", "{weights}", "{weights}", "--out", "x"], "--out"),
    (["fid", "{weights}", "{weights}", "--compile"], "--compile"),
    (["fid", "embedded:test", "embedded:test", "--eta", "nan"], "--eta"),
    (["fid", "embedded:test", "embedded:test", "--steps", "7"], "--steps"),
    (["fid", "embedded:test", "embedded:test", "--seed", "7"], "--seed"),
    (["fid", "embedded:test", "embedded:test", "--tile", "16"], "--tile"),
    (["fid", "embedded:test", "sprites", "--n", "4", "--eta", "nan"], "eta"),
    (["fid", "--table", "--kid"], "--kid"),
    (["fid", "--table", "--steps", "7"], "--steps"),
    (["fid", "--table", "--tile", "8"], "--size"),
    (["bench", "fid", "--json", "{weights}"], "{weights}"),
]


@pytest.mark.parametrize(
    ("command", "named"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_use_is_one_sentence_and_exit_code_2(weights, tmp_path, capsys, monkeypatch, command, named):
    file = tmp_path / "file"
    file.write_text("no folder")

    def fill(text):
        return text.format(file=file, weights=weights, long="x" * 300)

    words = [fill(word) for word in command]
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if words[:1] == ["train"] and "--out" not in words:
        words += ["--out", str(tmp_path / "fresh")]
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(error) == 1
    assert error[0].startswith("hw3")
    assert fill(named) in error[0]
    assert "Traceback" not in error[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_both_names_of_the_command_are_the_same_program():
    [script] = [entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "hw3"]
    assert script.load() is main
    versions = [
        subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        for command in ([sys.executable, "-m", "hw3utils"], [os.path.join(os.path.dirname(sys.executable), "hw3")])
    ]
    assert versions[0] == versions[1] == f"hw3utils {hw3utils.__version__}\n"


SMALL = """
import sys
from hw3utils import sprites
from hw3utils.__main__ import main
from hw3utils.learning import recipes
from hw3utils.learning.networks import UNet

few, SIZES = sprites.load_sprites("embedded", n_train=200, n_test=40), %r
recipes.UNet = lambda **options: UNet(**{**SIZES, **options})
sprites.load_sprites = lambda source, **options: few
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def long_training(out, *words, **streams):
    """A training of very many steps in a process of its own; yields it after its first steps."""
    options = ["--steps", "1000000", "--batch-size", "4", "--device", "cpu", "--out", str(out), *words]
    process = subprocess.Popen(
        [sys.executable, "-c", SMALL % SIZES, "train", *options],
        env={**os.environ, "HW3_QUIET": "0", "OMP_NUM_THREADS": "1"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": default_signals, **streams},
    )
    bar = process.stderr or process.stdout
    seen = b""
    try:
        while b"training:" not in seen:  # the bar, after the first step
            byte = bar.read(1)
            assert byte, seen.decode()
            seen += byte
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_between_two_steps_and_the_run_can_be_resumed(small, tmp_path, name):
    out, number = tmp_path / "run", getattr(signal, name)
    with long_training(out) as process:
        process.send_signal(number)
        printed, error = (stream.decode() for stream in process.communicate())
    assert process.returncode == 128 + number
    assert str(out) in printed
    assert "Traceback" not in error
    done = len(read_history(out)[0])
    assert f"step {done} is saved in {out}" in error
    page = (out / "index.html").read_text()
    assert "stopped" in page
    assert "http-equiv" not in page
    options = ["--batch-size", "4", "--device", "cpu", "--out", str(out)]
    assert main(["train", "--steps", str(done + 1), "--resume", *options]) == 0
    assert len(read_history(out)[0]) == done + 1


def test_a_closed_output_stops_the_run_and_saves_it(tmp_path):
    with long_training(tmp_path / "run", stderr=subprocess.STDOUT) as process:
        process.stdout.close()
        assert process.wait(timeout=300) == 128 + signal.SIGPIPE
    assert len(read_history(tmp_path / "run")[0]) >= 1


def test_a_second_training_is_refused_while_the_first_runs(small, tmp_path, capsys):
    out = tmp_path / "run"
    with long_training(out, "--checkpoint-every", "1") as process:
        while not (out / "checkpoint.json").exists():
            process.stderr.read(1)
        before = (out / "index.html").stat().st_ino
        words = ["train", "--batch-size", "4", "--checkpoint-every", "1", "--device", "cpu", "--out", str(out)]
        assert main([*words, "--resume"]) == 2
        error = capsys.readouterr().err
        assert str(out) in error
        assert "step" not in error
        assert (out / "index.html").stat().st_ino == before
        process.kill()  # a lock of a dead process is free
        process.communicate()
        assert main([*words, "--steps", str(len(read_history(out)[0])), "--resume"]) == 0


@pytest.mark.parametrize("fails", ["page", "samples"])
def test_a_page_that_fails_ends_the_run_with_its_steps_saved(small, tmp_path, capsys, monkeypatch, fails):
    calls = {"page": "hw3utils.watch.Watch._curve", "samples": "hw3utils.watch.save_grid"}

    def fail(*_, **__):
        if fails == "page" and len(steps) < 1:
            return steps.append(1) or b""
        raise KeyError("mine")

    steps = []
    monkeypatch.setattr(calls[fails], fail)
    words = ["--steps", "9", "--batch-size", "4", "--checkpoint-every", "3", "--device", "cpu"]
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    done = len(read_history(tmp_path / "run")[0])
    assert f"step {done} is saved" in error
    assert "mine" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "weights.safetensors",
        "weights.json",
        "samples/00000007.png",
        "checkpoint-00000007.safetensors",
        "samples",
    ],
)
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_files_of_others_are_not_overwritten(small, tmp_path, capsys, name, resume):
    if resume and name.startswith("checkpoint"):
        pytest.skip("it may be of this run, killed at its first checkpoint")
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert main(["train", "--steps", "1", "--batch-size", "4", "--out", str(tmp_path / "site"), *resume]) == 2
    assert name in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_home_is_written_as_a_tilde(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["--sampler", "ddim", "--steps", "1", "--n", "1", "--device", "cpu"]
    assert main(["sample", *words, "--out=~/x/a.npz", "--out", "~/x/b.png"]) == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["a.npz", "b.png"]
    assert main(["fid", "~/x/a.npz", "~/x"]) == 2
    assert "1" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_every_output_of_a_repeated_option_is_written(tmp_path):
    words = ["sample", "--sampler", "ddim", "--steps", "1", "--n", "4", "--device", "cpu"]
    assert (
        main([*words, "--out", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.gif"), str(tmp_path / "C.NPZ")]) == 0
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C.NPZ", "a.png", "b.gif"]
    assert main(["fid", str(tmp_path / "C.NPZ"), str(tmp_path / "C.NPZ"), "--device", "cpu"]) == 0


def run(code, **environment):
    """A program with these changes of its environment (None removes a variable)."""
    changed = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], env=changed, capture_output=True)


def test_names_outside_the_encoding_of_the_output_are_escaped(tmp_path):
    folder = tmp_path / "спрайты"
    for k, image in enumerate(draw_sprites(6)[0]):
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    code = f"from hw3utils.__main__ import main; raise SystemExit(main(['data', '--source', {str(folder)!r}]))"
    done = run(code, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "\\u0441" in done.stdout.decode("cp1252")


@pytest.mark.parametrize(
    "before",
    [
        "import sys; sys.stderr = None",
        "import sys; sys.stdout = sys.stderr = None",
        "import os; os.close(2)",
        "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
        "import pwd\ndef none(uid): raise KeyError(uid)\npwd.getpwuid = none",
    ],
    ids=["no stderr", "no output", "closed stderr", "full output", "no home"],
)
def test_without_an_output_or_a_home_there_is_no_traceback(before):
    code = f"{before}\nfrom hw3utils.__main__ import main\nraise SystemExit(main(['data', '--source', 'real']))"
    done = run(code, HOME=None, USER=None, LOGNAME=None, HW3_CACHE=None, MPLCONFIGDIR="/tmp")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (MemoryError(), "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "9 bytes"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "20 GiB"),
        (type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})("no compiler"), "no compiler"),
    ],
)
def test_too_little_memory_and_a_missing_compiler_are_a_sentence(error, named, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("hw3utils.samplers.sample_in_batches", fail)
    assert main(["sample", "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 1
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1


def test_other_errors_of_the_program_keep_their_traceback(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr("hw3utils.samplers.sample_in_batches", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["sample", "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")])


def test_ctrl_c_anywhere_else_is_a_sentence(small, weights, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hw3utils.samplers.sample_in_batches", interrupt)
    assert main(["sample", "--weights", str(weights), "--out", str(tmp_path / "x.png")]) == 130
    monkeypatch.setattr("hw3utils.sprites.load_sprites", interrupt)
    assert main(["train", "--out", str(tmp_path / "new")]) == 130
    assert main(["data"]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["hw3 sample", "hw3 train", "hw3 data"]
    assert all("interrupted" in line for line in lines)
    assert not (tmp_path / "x.png").exists()
