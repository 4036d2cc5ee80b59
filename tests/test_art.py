"""The art files: what a kind must keep, a kind of one's own, what the reader refuses, and the bits of the pictures."""

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from hw3utils.learning.weights import pretrained_card
from hw3utils.sprites import CLASS_NAMES, count_grammar, draw_sprites, drawing, grammar, grammar_accepts, load_sprites

README = (grammar.ART / "README.md").read_text(encoding="utf-8")
ART_FILES = sorted(path for path in grammar.ART.rglob("*") if path.is_file())

SNOWMAN = """\
note A kind that the package does not have.
weight 2
mirrored
moves stay, down
colours main: sky, pink

slot body
part two balls at row 4, column 3
    ...oooo..
    ..oqoooO.
    ..oooooO.
    ...oooO..
    .oqmmmmO.
    oqoooooOO
    oooooooOO
    .oooooOO.

slot hat
part none
part pail at row 2, column 6
    lggG
    lggG

slot offhand outlined
use hero_offhands with w for t
"""


@pytest.fixture
def art(tmp_path):
    """A copy of the shipped art, to add to and to spoil."""
    return shutil.copytree(grammar.ART, tmp_path / "art")


@pytest.fixture
def put_in_place(monkeypatch):
    """A function that lets the generator draw other kinds until the end of the test."""
    drawing._drawings.cache_clear()

    def put(kinds):
        monkeypatch.setattr(drawing, "KINDS", kinds)
        monkeypatch.setattr(drawing, "ATTRIBUTE_VALUES", drawing._attribute_values(kinds))

    yield put
    drawing._drawings.cache_clear()


def check_kind(kind):
    """What every kind must keep; that two kinds of a class share no drawing, `count_grammar` sees to."""
    assert kind.class_name in CLASS_NAMES
    assert kind.weight > 0
    assert kind.slots
    for material in grammar.MATERIALS:
        assert set(kind.options(material)) <= grammar.PALETTES[material].keys()
    codes = grammar.structures(kind)[0]
    # The outline closes within the picture, and nothing wraps round: moved by a pixel, it would stand at an edge.
    assert set(kind.shifts) <= set(grammar.MOVES.values())
    assert (codes[:, (0, -1)] < grammar.FIRST_COLOUR).all()
    assert (codes[:, :, (0, -1)] < grammar.FIRST_COLOUR).all()
    # Colours of the palettes, a closed outline, white corners, enough white and enough of the rest.
    ramps = [tone for palette in grammar.PALETTES.values() for tone in next(iter(palette.values()))]
    colours = np.array([grammar.WHITE, grammar.OUTLINES["black"], grammar.WHITE, *ramps], np.uint8)
    assert grammar_accepts(colours[codes[:: 1 + len(codes) // 3000]], tolerance=0).all()


@pytest.mark.parametrize("kind", drawing.KINDS, ids=lambda kind: kind.name)
def test_what_a_kind_must_keep(kind):
    check_kind(kind)


def test_the_pictures_are_the_ones_the_weights_were_trained_on():
    assert load_sprites("embedded").sha256 == pretrained_card("sprites")["data"]["sha256"]


def test_adding_a_kind_is_adding_a_file(art, put_in_place):
    (art / "hero_99_snow_man.txt").write_text(SNOWMAN, encoding="utf-8")
    kinds = grammar.read_kinds(art)
    place = [kind.name for kind in kinds].index("snow man")
    own = kinds[place]
    assert kinds[:place] + kinds[place + 1 :] == drawing.KINDS
    assert [kind.class_name for kind in kinds[place - 1 : place + 2]] == ["hero", "hero", "non-hero"]
    assert (own.class_name, own.weight, own.mirrored, own.shifts) == ("hero", 2.0, True, ((0, 0), (1, 0)))
    assert own.colours == {"main": ("sky", "pink")}
    assert [(slot.name, len(slot.parts), slot.outlined) for slot in own.slots] == [
        ("body", 1, False),
        ("hat", 2, False),
        ("offhand", 4, True),
    ]
    check_kind(own)

    put_in_place(kinds)
    images, labels, attributes = draw_sprites(1000, seed=1)
    mine = attributes["kind"] == place
    assert mine.sum() > 20
    assert grammar_accepts(images, tolerance=0).all()
    assert (labels[mine].argmax(axis=1) == CLASS_NAMES.index("hero")).all()
    hats = drawing.ATTRIBUTE_VALUES["hat"]
    assert {hats[hat] for hat in attributes["hat"][mine]} == {"none", "pail"}
    assert count_grammar()["hero"] > 0


def test_two_kinds_of_a_class_share_no_drawing(art, put_in_place):
    shutil.copy(art / "food_01_apple.txt", art / "food_14_pear.txt")
    put_in_place(tuple(kind for kind in grammar.read_kinds(art) if kind.name in ("apple", "pear")))
    with pytest.raises(AssertionError, match="food"):
        count_grammar()


def test_the_reader_takes_what_editors_write(art):
    (art / ".hidden").write_bytes(b"")
    text = (art / "food_01_apple.txt").read_text(encoding="utf-8")
    for content in (
        text.replace("\n", "\r\n").encode(),
        text.encode("utf-8-sig"),
        text.replace("    ", "\t").replace("\n", "  \n\n").encode(),
        (text + "note äpple").encode(),
    ):
        (art / "food_01_apple.txt").write_bytes(content)
        assert grammar.read_kinds(art) == drawing.KINDS


# Name of a case -> (what is replaced by what in a file of our own, the line number, what the message says it found).
WRONG_LINES = {
    "unknown word": (("mirrored", "mirored"), 3, "got 'mirored'"),
    "weight of nothing": (("weight 2", "weight 0"), 2, "got 'weight 0'"),
    "weight below nothing": (("weight 2", "weight -1"), 2, "got 'weight -1'"),
    "weight in words": (("weight 2", "weight two"), 2, "got 'weight two'"),
    "mirrored how": (("mirrored", "mirrored twice"), 3, "got 'mirrored twice'"),
    "mirrored again": (("mirrored", "mirrored\nmirrored"), 4, "got 'mirrored' a second time"),
    "unknown move": (("stay, down", "stay, east"), 4, "got 'east'"),
    "same move": (("stay, down", "stay, stay"), 4, "got 'stay' a second time"),
    "no move": (("moves stay, down", "moves"), 4, "got ''"),
    "unknown material": (("main: sky", "mane: sky"), 5, "got 'mane'"),
    "unknown colour": (("sky, pink", "sky, beige"), 5, "got 'beige'"),
    "same colour": (("sky, pink", "sky, sky"), 5, "got 'sky' a second time"),
    "no colon": (("main: sky", "main sky"), 5, "got 'colours main sky, pink'"),
    "same material": (("pink\n", "pink\ncolours main: red\n"), 6, "got 'main' a second time"),
    "part before a slot": (("slot body\n", ""), 7, "got 'part' above the first slot"),
    "unknown slot": (("slot body", "slot boots"), 7, "got 'boots'"),
    "slot how": (("d outlined", "d inlined"), 24, "got 'inlined'"),
    "same slot": (("slot hat", "slot body"), 18, "got 'body' a second time"),
    "empty slot": (("slot hat\n", "slot hat\nslot extra\n"), 18, "got the slot 'hat' without parts"),
    "late weight": (("slot hat\n", "slot hat\nweight 2\n"), 19, "got 'weight' below a slot"),
    "part without place": ((" at row 2, column 6", ""), 20, "got 'part pail'"),
    "named none": (("part pail", "part none"), 20, "got 'part none at row 2, column 6'"),
    "rows of none": (("part none\n", "part none\n    mm\n"), 20, "got a row of art"),
    "part without rows": (("    lggG\n", "", 2), 20, "got the part 'pail' without rows"),
    "same part": (("part none\n", "part none\npart none\n"), 20, "got 'none' a second time"),
    "row without part": (("slot hat\n", "slot hat\n    mm\n"), 19, "got an indented line"),
    "row not indented": (("    ..oqoooO.", "..oqoooO."), 10, "got '..oqoooO.'"),
    "unknown character": (("oqmm", "oqkm"), 13, "got the character 'k'"),
    "short row": (("    oqoooooOO", "    oqoooooO"), 14, "got a row of 8 characters"),
    "sticks out below": (("at row 4", "at row 9"), 8, "got a part that reaches row 16, column 11"),
    "sticks out right": (("row 4, column 3", "row 4, column 8"), 8, "got a part that reaches row 11, column 16"),
    "no room for a move": (("row 4, column 3", "row 7, column 3"), 8, "got the part 'two balls' drawn up to an edge"),
    "no room": (("row 4, column 3", "row 4, column 7"), 8, "expected only rows and columns 1 to 14 in every move"),
    "unknown use": (("hero_offhands", "hero_hands"), 25, "got 'hero_hands'"),
    "use how": (("with w for t", "with wood"), 25, "got 'use hero_offhands with wood'"),
    "use of a new letter": (("with w for t", "with k for t"), 25, "got 'k'"),
    "use of a lost letter": (("with w for t", "with w for z"), 25, "got 'z'"),
    "use of a part again": (("use hero", "part none\nuse hero"), 26, "got 'none' a second time"),
    "use without room": (("hero_offhands with w for t", "hero_weapons"), 25, "got the part 'spear' drawn up to"),
}


@pytest.mark.parametrize(("change", "line", "message"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_wrong_line_is_refused_in_one_sentence(art, change, line, message):
    path = art / "hero_04_snow_man.txt"
    assert change[0] in SNOWMAN
    path.write_text(SNOWMAN.replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        grammar.read_kinds(art)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}, line {line}: got ")
    assert sentence.count("\n") == 0
    assert sentence.endswith(".")


def test_a_file_in_another_encoding_is_refused(art):
    path = art / "hero_04_snow_man.txt"
    path.write_bytes(SNOWMAN.replace("does not", "hätte").encode("latin-1"))
    with pytest.raises(ValueError, match=r"04_snow_man.txt, line 1: got bytes that are not UTF-8"):
        grammar.read_kinds(art)


def test_a_wrong_line_of_a_shared_file_is_refused(art):
    path = art / "shared" / "hero_capes.txt"
    path.write_text(path.read_text().replace("part none", "slot cape\npart none"))
    with pytest.raises(ValueError, match=r"hero_capes.txt, line 1: got 'slot'"):
        grammar.read_kinds(art)


WRONG_FILES = {
    "no slot": ("hero_04_empty.txt", "note nothing", "hero_04_empty.txt: got no slot"),
    "no number": ("hero_snow_man.txt", SNOWMAN, "got a file named 'hero_snow_man.txt'"),
    "other ending": ("hero_04_snow_man.art", SNOWMAN, "got a file named 'hero_04_snow_man.art'"),
    "same name": ("food_14_slime.txt", SNOWMAN, "slime.txt: got 'slime' a second time"),
    "unknown class": ("heroes_01_snow_man.txt", SNOWMAN, "got a file named 'heroes_01_snow_man.txt'"),
    "no class": ("04_snow_man.txt", SNOWMAN, "got a file named '04_snow_man.txt'"),
    "a folder": ("hero/04_snow_man.txt", SNOWMAN, "got a file named 'hero'"),
    "stray shared": ("shared/hats.md", "", "shared: got a file named 'hats.md'"),
}


@pytest.mark.parametrize(("name", "text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_out_of_place_is_refused(art, name, text, message):
    (art / name).parent.mkdir(exist_ok=True)
    (art / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        grammar.read_kinds(art)


def test_a_class_without_kinds_is_refused(art):
    for path in art.glob("spell_*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"got no spell"):
        grammar.read_kinds(art)
    shutil.rmtree(art / "shared")
    with pytest.raises(ValueError, match="shared: got no such folder"):
        grammar.read_kinds(art)


def test_every_shared_file_is_used():
    used = {name for path in ART_FILES for name in re.findall(r"^use (\w+)", path.read_text(encoding="utf-8"), re.M)}
    assert used == {path.stem for path in (grammar.ART / "shared").iterdir()}


def test_the_readme_is_short_and_names_every_part_of_the_format():
    assert len(README.splitlines()) <= 15
    for keyword in grammar.KIND_KEYWORDS:
        assert re.search(rf"`{keyword}\b", README), keyword
    for name in (*grammar.SLOT_NAMES, "outlined", "none", "`.`", "`_`", "`#`"):
        assert name in README, name
    for material, characters in grammar.MATERIALS.items():
        assert f"{material} `{characters}`" in README


def test_the_package_takes_the_art_along():
    package = Path(grammar.__file__).parent.parent
    settings = tomllib.loads((package / "pyproject.toml").read_text())
    patterns = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]
    for path in ART_FILES:
        assert any(path.relative_to(package).match(pattern) for pattern in patterns), path
