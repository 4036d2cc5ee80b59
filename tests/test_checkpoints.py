"""Files: whole or not at all, checked when read, never unpickled."""

import json
import pickle
from pathlib import Path

import pytest
import torch

import hw3utils
from hw3utils.files import (
    check_writable,
    file_sha256,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from hw3utils.learning.networks import UNet
from hw3utils.learning.training import seeded
from hw3utils.learning.weights import load_pretrained, load_weights, pretrained_card, save_weights
from hw3utils.schedules import cosine_schedule, linear_schedule

TINY = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}


@pytest.fixture
def saved(tmp_path):
    network = seeded(lambda: UNet(**TINY), 0)
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), network=network, schedule=cosine_schedule(20), card={"note": "n"})
    return network, path


def test_what_was_written_comes_back(saved):
    network, path = saved
    loaded, schedule, card = load_weights(path)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert schedule == cosine_schedule(20)
    assert card["note"] == "n"
    assert not loaded.training
    again, _, _ = load_weights(path.parent)
    assert torch.equal(again.head.bias, loaded.head.bias)


def test_the_built_in_schedule_comes_back(tmp_path):
    network = seeded(lambda: UNet(**TINY, schedule=linear_schedule(30).card()), 0)
    path = save_weights(
        tmp_path / "w.safetensors", network.state_dict(), network=network, schedule=linear_schedule(30), card={}
    )
    loaded, _, _ = load_weights(path)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 30])
    assert torch.equal(network.eval()(x, t), loaded(x, t))


def test_half_precision_is_kept_to_its_rounding(tmp_path):
    network = seeded(lambda: UNet(**TINY), 0)
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

    with pytest.raises(OSError, match=r"could not write .*No space left on device.*free some space"):
        write_atomically(path, breaks)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_writer_with_a_mistake_of_its_own_leaves_nothing_either(tmp_path):
    def breaks(temporary):
        temporary.write_text("half")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_atomically(tmp_path / "file", breaks)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent == path.parent))

    assert write_atomically(path, write).read_text() == "new"
    assert seen == [("old", True)]


def test_what_cannot_be_a_folder_is_said_before_and_after(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"could not write to the folder .*file.*; choose another one"):
        check_writable(tmp_path / "file" / "deep")
    with pytest.raises(OSError, match=r"could not write .*file/x"):
        write_atomically(tmp_path / "file" / "x", lambda temporary: temporary.write_text("x"))
    with pytest.raises(OSError, match=r"could not write .*Is a directory"):
        write_atomically(tmp_path, lambda temporary: temporary.write_text("x"))
    assert check_writable(tmp_path / "new" / "deep").is_dir()
    assert list((tmp_path / "new" / "deep").iterdir()) == []


def test_a_card_of_other_weights_does_not_sign_these(saved, tmp_path):
    _, _, card = load_weights(saved[1])
    other = seeded(lambda: UNet(**TINY), 1)
    again = save_weights(
        tmp_path / "again.safetensors", other.state_dict(), network=other, schedule=linear_schedule(7), card=card
    )
    loaded, schedule, new = load_weights(again)
    assert torch.equal(loaded.stem.weight, other.stem.weight)
    assert schedule == linear_schedule(7)
    assert new["note"] == "n"


class Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(saved, tmp_path):
    mark = tmp_path / "it was run"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works
    mark.unlink()
    for write in (lambda: torch.save(Trap(mark), saved[1]), lambda: saved[1].write_bytes(pickle.dumps(Trap(mark)))):
        write()
        edit(saved[1], sha256=file_sha256(saved[1]))
        with pytest.raises(ValueError, match="never pickles"):
            load_weights(saved[1])
        saved[1].with_suffix(".json").write_bytes(saved[1].read_bytes())
        with pytest.raises(ValueError, match="not readable as JSON"):
            read_json(saved[1].with_suffix(".json"))
        assert not mark.exists()
        write_json(saved[1].with_suffix(".json"), {"network": {"name": "UNet"}, "schedule": {}, "sha256": ""})


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
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.with_suffix(".json").unlink(), "no file .*json"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not readable as JSON"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "holds a JSON list"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "lacks network, schedule, sha256"),
        (lambda path: edit(path, sha256="0"), "does not have the SHA-256 of its card"),
        (lambda path: edit(path, sha256=None), "does not have the SHA-256 of its card"),
        (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "not readable as JSON"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "does not have the SHA-256 of its card"),
        (lambda path: edit(path, network={"name": "Net"}), "names the network 'Net'"),
        (lambda path: edit(path, network="UNet"), "names the network None"),
        (lambda path: edit(path, network={"name": ["UNet"]}), "names the network"),
        (lambda path: edit(path, network={"name": "UNet", "widths": [8, 10**9]}), "cannot be made: a number in widths"),
        (lambda path: edit(path, network={"name": "UNet", "widths": "wide"}), "cannot be made: widths is 'wide'"),
        (lambda path: edit(path, network={"name": "UNet", "groups": 0}), "cannot be made: groups is 0"),
        (lambda path: sign(path, lambda t: t.pop("head.bias")), "no tensor head.bias"),
        (lambda path: sign(path, lambda t: t.update(more=torch.ones(1))), "a tensor more that the network lacks"),
        (lambda path: sign(path, lambda t: t.update({"head.bias": torch.ones(5)})), r"head.bias of shape \(5,\)"),
        (lambda path: edit(path, network={"name": "UNet", "depth": 3}), "cannot be made"),
        (lambda path: edit(path, network={"name": "UNet"}), "another network"),
        (lambda path: edit(path, schedule={"name": "square"}), "'square'"),
        (lambda path: edit(path, schedule=None), "the schedule card is None"),
        (lambda path: edit(path, schedule={"name": "linear", "T": 0}), "T is 0"),
    ],
)
def test_each_damage_is_a_sentence(saved, damage, message):
    damage(saved[1])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_weights(saved[1])
    assert "\n" not in str(error.value)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    network = seeded(lambda: UNet(**TINY), 0)
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)
    path = save_weights(
        tmp_path / "w.safetensors", network.state_dict(), network=network, schedule=linear_schedule(), card={}
    )
    with pytest.raises(ValueError, match="not finite"):
        load_weights(path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no shipped weights 'cats', expected one of"):
        load_pretrained("cats")
    with pytest.raises(ValueError, match="no card 'cats', expected one of"):
        pretrained_card("cats")
    with pytest.raises(AttributeError, match="no attribute"):
        _ = hw3utils.nothing
