"""Files: written atomically, verified when read, never unpickled."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import same_state, unet

import hw3utils
from hw3utils.files import (
    check_output,
    check_writable,
    expanded,
    file_sha256,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from hw3utils.learning.weights import load_pretrained, load_weights, pretrained_card, save_weights
from hw3utils.schedules import cosine_schedule, linear_schedule


@pytest.fixture
def saved(tmp_path):
    network = unet()
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), network=network, schedule=cosine_schedule(20), card={"note": "n"})
    return network, path


def test_what_was_written_comes_back(saved):
    network, path = saved
    loaded, schedule, card = load_weights(path)
    assert same_state(network, loaded)
    assert schedule == cosine_schedule(20)
    assert card["note"] == "n"
    assert not loaded.training
    again, _, _ = load_weights(path.parent)
    assert torch.equal(again.head.bias, loaded.head.bias)


def test_the_built_in_schedule_comes_back(tmp_path):
    network = unet(schedule=linear_schedule(30).card())
    path = save_weights(
        tmp_path / "w.safetensors", network.state_dict(), network=network, schedule=linear_schedule(30), card={}
    )
    loaded, _, _ = load_weights(path)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 30])
    assert torch.equal(network.eval()(x, t), loaded(x, t))


def test_half_precision_is_kept_to_its_rounding(tmp_path):
    network = unet()
    path = save_weights(
        tmp_path / "w.safetensors",
        network.state_dict(),
        network=network,
        schedule=linear_schedule(),
        card={},
        dtype=torch.float16,
    )
    loaded, _, _ = load_weights(path)
    for a, b in zip(network.parameters(), loaded.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_loading_leaves_the_global_random_state(saved):
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    load_weights(saved[1])
    assert torch.equal(torch.rand(1), want)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def breaks(temporary):
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device"):
        write_atomically(path, breaks)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_error_of_the_writer_leaves_nothing_either(tmp_path):
    def breaks(temporary):
        temporary.write_text("half")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_atomically(tmp_path / "file", breaks)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent == path.parent))

    assert write_atomically(path, write).read_text() == "new"
    assert seen == [("old", True)]


def test_a_path_that_cannot_be_a_folder_is_refused_before_and_after(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file/deep"):
        check_writable(tmp_path / "file" / "deep")
    with pytest.raises(OSError, match="file/x"):
        write_atomically(tmp_path / "file" / "x", lambda temporary: temporary.write_text("x"))
    with pytest.raises(OSError, match="Is a directory"):
        write_atomically(tmp_path, lambda temporary: temporary.write_text("x"))
    assert check_writable(tmp_path / "new" / "deep").is_dir()
    assert list((tmp_path / "new" / "deep").iterdir()) == []


def test_a_card_of_other_weights_does_not_sign_these(saved, tmp_path):
    _, _, card = load_weights(saved[1])
    other = unet(1)
    again = save_weights(
        tmp_path / "again.safetensors", other.state_dict(), network=other, schedule=linear_schedule(7), card=card
    )
    loaded, schedule, new = load_weights(again)
    assert torch.equal(loaded.stem.weight, other.stem.weight)
    assert schedule == linear_schedule(7)
    assert new["note"] == "n"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "old").write_text("old")
        (tmp_path / "old").chmod(0o604)
        writers = (
            lambda path: write_json(path, {}),
            lambda path: write_tensors(path, {"a": torch.ones(1)}),
            lambda path: write_atomically(path, lambda new: Image.new("L", (2, 2)).save(new, "PNG")),
        )
        for k, write in enumerate(writers):
            write(tmp_path / f"new{k}")
            write(tmp_path / "old")
            assert mode(tmp_path / f"new{k}") == 0o666 & ~mask
            assert mode(tmp_path / "old") == 0o604
    finally:
        os.umask(before)


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to("there/file.json")
    (tmp_path / "chain.json").symlink_to("link.json")
    for k in range(2):  # first a link to nothing
        write_json(tmp_path / "chain.json", {"a": k})
        assert read_json(tmp_path / "there" / "file.json") == {"a": k}
    assert (tmp_path / "chain.json").is_symlink()
    assert (tmp_path / "link.json").is_symlink()
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_pipes_devices_and_open_files_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(check_output(tmp_path / "pipe"), {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_json(check_output(Path(os.devnull)), {"a": 1})
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    if sys.platform == "linux":
        with (tmp_path / "out").open("w") as out:  # as the shell opens it for `> out`
            (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{out.fileno()}")
            print("before", file=out, flush=True)
            write_json(tmp_path / "stdout", {})
        assert (tmp_path / "out").read_text() == "before\n{}\n"
        assert (tmp_path / "stdout").is_symlink()


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "ü" * 125 + ".json"])
def test_names_up_to_the_limit_of_the_file_system(tmp_path, name):
    write_json(check_output(tmp_path / name), {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="too long"):
        check_output(tmp_path / f"{name}{name}")
    with pytest.raises(OSError, match="too long"):
        write_json(tmp_path / f"{name}{name}", {})


def test_a_bad_place_for_output_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path, tmp_path / "file" / "x.json"):
        with pytest.raises(OSError, match=str(path.name)):
            check_output(path)
    assert check_output(tmp_path / "new" / "x.json").parent.is_dir()


def test_tensors_that_share_memory_are_written(tmp_path):
    x = torch.arange(6.0)
    write_tensors(tmp_path / "a.safetensors", {"x": x, "same": x, "view": x[2:], "turned": x.reshape(2, 3).T})
    read = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(read["same"], x)
    assert torch.equal(read["view"], x[2:])
    assert torch.equal(read["turned"], x.reshape(2, 3).T)


def test_a_home_folder_is_asked_for_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(OSError, match="~/x"):
        expanded("~/x")


def no_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_weights_are_loaded_in_fp32_whatever_the_default_dtype(saved):
    torch.set_default_dtype(torch.float64)
    try:
        network, _, _ = load_weights(saved[1])
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def edit(path, **changes):
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))


def sign(path, change):
    """Change the tensors and put their new hash into the card, so that only their content is wrong."""
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    change(tensors)
    write_tensors(path, tensors)
    edit(path, sha256=file_sha256(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "safetensors"),
        (lambda path: path.write_bytes(b""), "safetensors"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.with_suffix(".json").unlink(), "no file .*json"),
        (lambda path: path.with_suffix(".json").write_text("{"), "JSON"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "list"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "network, schedule, sha256"),
        (lambda path: edit(path, sha256="0"), "SHA-256"),
        (lambda path: edit(path, sha256=None), "SHA-256"),
        (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "JSON"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "SHA-256"),
        (lambda path: edit(path, network={"name": "Net"}), "'Net'"),
        (lambda path: edit(path, network="UNet"), "None"),
        (lambda path: edit(path, network={"name": ["UNet"]}), "UNet"),
        (lambda path: edit(path, network={"name": "UNet", "widths": [8, 10**9]}), "widths.*1000000000"),
        (lambda path: edit(path, network={"name": "UNet", "widths": "wide"}), "widths is 'wide'"),
        (lambda path: edit(path, network={"name": "UNet", "groups": 0}), "groups is 0"),
        (lambda path: sign(path, lambda t: t.pop("head.bias")), "head.bias"),
        (lambda path: sign(path, lambda t: t.update(more=torch.ones(1))), "more"),
        (lambda path: sign(path, lambda t: t.update({"head.bias": torch.ones(5)})), r"head.bias.*\(5,\)"),
        (lambda path: edit(path, network={"name": "UNet", "depth": 3}), "depth"),
        (lambda path: edit(path, network={"name": "UNet"}), "tensor"),
        (lambda path: edit(path, schedule={"name": "square"}), "'square'"),
        (lambda path: edit(path, schedule=None), "None"),
        (lambda path: edit(path, schedule={"name": "linear", "T": 0}), "T .*is 0"),
    ],
)
def test_each_damage_is_a_sentence(saved, damage, message):
    damage(saved[1])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_weights(saved[1])
    assert "\n" not in str(error.value)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    network = unet()
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)
    path = save_weights(
        tmp_path / "w.safetensors", network.state_dict(), network=network, schedule=linear_schedule(), card={}
    )
    with pytest.raises(ValueError, match=r"head\.bias"):
        load_weights(path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'cats'"):
        load_pretrained("cats")
    with pytest.raises(ValueError, match="'cats'"):
        pretrained_card("cats")
    with pytest.raises(AttributeError, match="nothing"):
        _ = hw3utils.nothing
