"""Files: whole or not at all, checked when read, never unpickled."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch

import hw3utils
from hw3utils.checkpoints import load_pretrained, load_weights, pretrained_card, save_weights, write_atomically
from hw3utils.networks import UNet
from hw3utils.schedules import cosine_schedule, linear_schedule
from hw3utils.training import seeded

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


class Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(saved, tmp_path):
    mark = tmp_path / "it was run"
    for write in (lambda: torch.save(Trap(mark), saved[1]), lambda: saved[1].write_bytes(pickle.dumps(Trap(mark)))):
        write()
        with pytest.raises(ValueError, match="never pickles"):
            load_weights(saved[1])
        assert not mark.exists()


def test_no_code_of_ours_can_unpickle():
    for path in Path(hw3utils.__file__).parent.rglob("*.py"):
        code = path.read_text()
        assert not re.search(r"\bpickle\.|import pickle|torch\.load\(|joblib|allow_pickle=True", code), path.name
        assert all("allow_pickle=False" in call for call in re.findall(r"np\.load\([^)]*\)", code)), path.name


def edit(path, **changes):
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a whole safetensors file"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.with_suffix(".json").unlink(), "no file .*json"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not readable as JSON"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "holds a JSON list"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "lacks network, schedule, sha256"),
        (lambda path: edit(path, sha256="0"), "does not have the SHA-256 of its card"),
        (lambda path: edit(path, network={"name": "Net"}), "names the network 'Net'"),
        (lambda path: edit(path, network={"name": "UNet", "depth": 3}), "cannot be made"),
        (lambda path: edit(path, network={"name": "UNet"}), "another network"),
        (lambda path: edit(path, schedule={"name": "square"}), "'square'"),
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
