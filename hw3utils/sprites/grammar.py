"""The sprite grammar: palettes, parts of ASCII art, slots and kinds, and the parser of the art files.

A kind (an apple, an adventurer) is a stack of slots; each slot has alternative parts; one part of each slot, one
colour for each material, one mirror state and one shift make one picture. The outline is added by a rule, so that it is
closed for every combination of parts. The art is data, a text file for each kind: `art/README.md` describes the format.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ART = Path(__file__).parent / "art"
CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SLOT_NAMES = ("cape", "body", "face", "hair", "hat", "weapon", "offhand", "extra")

SIDE = 16
EMPTY, ERASE, OUTLINE = ".", "_", "#"

# Each material has three tones, written as three characters: base, shadow, highlight.
MATERIALS = {
    "skin": "sSz",
    "hair": "hHi",
    "main": "mMn",
    "second": "tTu",
    "accent": "cCd",
    "metal": "gGl",
    "wood": "wWv",
    "gold": "yYx",
    "leaf": "fFe",
    "bone": "oOq",
    "red": "rRp",
}

Colour = tuple[int, ...]
_RAMPS: dict[str, tuple[Colour, ...]] = {
    "red": ((208, 56, 56), (150, 32, 52), (240, 116, 100)),
    "orange": ((232, 128, 40), (184, 84, 32), (250, 176, 92)),
    "yellow": ((240, 204, 64), (198, 150, 40), (252, 232, 136)),
    "lime": ((140, 196, 60), (92, 148, 48), (192, 228, 112)),
    "green": ((56, 152, 72), (36, 108, 68), (112, 196, 104)),
    "teal": ((48, 168, 160), (32, 120, 128), (116, 212, 196)),
    "sky": ((84, 168, 232), (56, 120, 192), (152, 208, 248)),
    "blue": ((64, 92, 208), (44, 60, 156), (116, 144, 240)),
    "purple": ((136, 80, 192), (96, 52, 148), (184, 132, 228)),
    "pink": ((232, 116, 168), (188, 76, 136), (250, 172, 204)),
    "brown": ((148, 96, 60), (108, 68, 48), (192, 140, 92)),
    "grey": ((136, 140, 156), (96, 100, 120), (184, 188, 200)),
}


def _blend(ramp: Sequence[Colour], towards: Colour, share: float) -> tuple[Colour, ...]:
    return tuple(tuple(round((1 - share) * c + share * d) for c, d in zip(tone, towards, strict=True)) for tone in ramp)


# No colour is in this table twice: a picture then determines its grammar derivation, and counting derivations with
# different drawings counts pictures.
PALETTES: dict[str, dict[str, tuple[Colour, ...]]] = {
    "skin": {
        "pale": ((248, 212, 180), (220, 164, 136), (252, 228, 204)),
        "fair": ((236, 184, 140), (200, 136, 104), (248, 208, 168)),
        "tan": ((212, 152, 104), (172, 112, 80), (232, 180, 132)),
        "brown": ((168, 108, 72), (128, 80, 60), (196, 136, 96)),
        "dark": ((124, 78, 58), (96, 56, 48), (152, 102, 76)),
    },
    "hair": {
        "black": ((84, 78, 100), (78, 60, 84), (116, 108, 136)),
        "brown": ((128, 76, 44), (92, 52, 38), (164, 108, 64)),
        "auburn": ((176, 72, 36), (128, 46, 36), (216, 112, 60)),
        "blond": ((236, 192, 84), (192, 140, 56), (250, 222, 140)),
        "white": ((212, 216, 222), (160, 164, 180), (224, 228, 234)),
        "blue": ((72, 120, 216), (48, 80, 168), (124, 172, 244)),
        "pink": ((236, 108, 152), (184, 68, 124), (250, 160, 188)),
        "green": ((76, 164, 92), (48, 116, 80), (132, 204, 124)),
    },
    "main": _RAMPS,
    "second": {name: _blend(ramp, (250, 236, 200), 0.22) for name, ramp in _RAMPS.items()},
    "accent": {
        name: _blend(_RAMPS[name], (255, 255, 235), 0.12) for name in ("red", "yellow", "lime", "sky", "purple", "pink")
    },
    "metal": {
        "steel": ((172, 180, 196), (116, 124, 148), (220, 226, 232)),
        "iron": ((128, 136, 152), (88, 94, 116), (168, 178, 190)),
        "bronze": ((200, 140, 84), (148, 94, 62), (234, 186, 124)),
        "golden": ((236, 196, 76), (184, 134, 48), (250, 226, 146)),
    },
    "wood": {"oak": ((156, 104, 64), (112, 72, 50), (196, 146, 98))},
    "gold": {"gold": ((244, 200, 60), (200, 144, 36), (252, 230, 130))},
    "leaf": {"green": ((84, 168, 64), (52, 124, 60), (140, 208, 92))},
    "bone": {"ivory": ((222, 218, 206), (176, 168, 164), (226, 224, 214))},
    "red": {"red": ((212, 60, 60), (156, 36, 56), (240, 120, 108))},
}

OUTLINES = {"black": (24, 20, 32), "navy": (20, 28, 64), "brown": (60, 28, 24), "plum": (52, 20, 60)}
WHITE = (255, 255, 255)

# Codes of an index map: 0 background, 1 outline, 2 erase (only while composing), then three tones a material.
BACKGROUND_CODE, OUTLINE_CODE, ERASE_CODE, FIRST_COLOUR = 0, 1, 2, 3
_CODES = {EMPTY: BACKGROUND_CODE, OUTLINE: OUTLINE_CODE, ERASE: ERASE_CODE} | {
    character: FIRST_COLOUR + i for i, character in enumerate("".join(MATERIALS.values()))
}
N_CODES = FIRST_COLOUR + 3 * len(MATERIALS)


@dataclass(frozen=True)
class Part:
    """A part: `rows` of characters with the top left corner at row `top`, column `left`."""

    name: str
    top: int
    left: int
    rows: tuple[str, ...]

    def codes(self) -> np.ndarray:
        """Return the (16, 16) uint8 index map of the part alone."""
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        for y, row in enumerate(self.rows, self.top):
            canvas[y, self.left : self.left + len(row)] = [_CODES[character] for character in row]
        return canvas


NOTHING = Part("none", 0, 0, ())


@dataclass(frozen=True)
class Slot:
    """A slot of a kind: one of `parts` is drawn; `outlined` parts have their own dark rim over the slots below."""

    name: str
    parts: tuple[Part, ...]
    outlined: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of sprite: its class, slots from back to front, and the colours that each material may take."""

    name: str
    class_name: str
    slots: tuple[Slot, ...]
    colours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shifts: tuple[tuple[int, int], ...] = ((0, 0),)
    mirrored: bool = False
    weight: float = 1.0

    def options(self, material: str) -> tuple[str, ...]:
        """Return the names of the colours that `material` may take in this kind."""
        return self.colours.get(material, tuple(PALETTES[material]))


def _rim(codes: np.ndarray) -> np.ndarray:
    """Return where the empty pixels beside (not diagonal to) a coloured pixel are: codes (S, 16, 16) -> bool."""
    coloured = np.pad(codes >= FIRST_COLOUR, ((0, 0), (1, 1), (1, 1)))
    near = coloured[:, :-2, 1:-1] | coloured[:, 2:, 1:-1] | coloured[:, 1:-1, :-2] | coloured[:, 1:-1, 2:]
    return near & (codes == BACKGROUND_CODE)


def structures(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return every drawing of a kind before colours: codes (S, 16, 16) uint8 and choices (S, slots + 3) int16.

    The last three columns of the choices are mirrored, shift down and shift right.
    """
    canvas = np.zeros((1, SIDE, SIDE), np.uint8)
    for slot in kind.slots:
        layers = np.stack([p.codes() for p in slot.parts])
        if slot.outlined:
            layers = np.where(_rim(layers), OUTLINE_CODE, layers)
        layered = np.where(layers[None] != 0, layers[None], canvas[:, None])
        canvas = layered.reshape(-1, SIDE, SIDE)
        canvas[canvas == ERASE_CODE] = BACKGROUND_CODE
    choices = np.array(list(product(*(range(len(slot.parts)) for slot in kind.slots))), np.int16)

    turns = (False, True) if kind.mirrored else (False,)
    all_codes, all_choices = [], []
    for turned, (down, right) in product(turns, kind.shifts):
        seen = canvas[:, :, ::-1] if turned else canvas
        # Nothing wraps round: `_check_room` has checked that the margin of the art is wider than the shift.
        seen = np.roll(seen, (down, right), axis=(1, 2))
        all_codes.append(np.where(_rim(seen), np.uint8(OUTLINE_CODE), seen))
        pose = np.broadcast_to(np.array([turned, down, right], np.int16), (len(canvas), 3))
        all_choices.append(np.concatenate([choices, pose], axis=1))
    return np.concatenate(all_codes), np.concatenate(all_choices)


# The art files: `art/CLASS_NN_name.txt` is a kind, `art/shared/name.txt` has parts that several kinds use. They are not
# TOML: it would replace one function here (the checks stay), lose the line numbers of the messages, and put quotes and
# brackets around the art.
SHARED_KEYWORDS = ("note", "part")
KIND_KEYWORDS = ("note", "weight", "mirrored", "moves", "colours", "slot", "part", "use")
MOVES = {"stay": (0, 0), "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
MOVES |= {f"{a} {b}": (MOVES[a][0], MOVES[b][1]) for a in ("up", "down") for b in ("left", "right")}
_NAME = "[a-z][a-z0-9 -]*"


@dataclass(frozen=True)
class _Statement:
    """A line `keyword rest` of an art file, the rows indented below it, and its place (file and line number)."""

    place: str
    keyword: str
    rest: str
    rows: list[tuple[str, str]]


def _syntax_error(place: str | Path, got: str, expected: str) -> ValueError:
    return ValueError(f"{place}: got {got}, expected {expected}.")


def _check_known(place: str, name: str, known: Collection[str], more: str = "") -> None:
    if name not in known:
        raise _syntax_error(place, repr(name), f"one of {', '.join(known)}{more}")


def _check_new(place: str, name: str, seen: Collection[str]) -> None:
    if name in seen:
        raise _syntax_error(place, f"{name!r} a second time", "each name once")


def _statements(path: Path, keywords: tuple[str, ...]) -> list[_Statement]:
    """Return the statements of an art file, without its notes and blank lines."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        raise _syntax_error(f"{path}, line {row}", "bytes that are not UTF-8", "a text file saved as UTF-8") from None
    statements: list[_Statement] = []
    for number, line in enumerate(text.splitlines(), 1):
        place, words = f"{path}, line {number}", line.strip()
        if words and line[0].isspace():
            if not statements or statements[-1].keyword != "part":
                raise _syntax_error(place, "an indented line", "indented rows of art only below a part")
            statements[-1].rows.append((place, words))
        elif words:
            keyword, _, rest = words.partition(" ")
            _check_known(place, keyword, keywords, ", or an indented row of art")
            statements.append(_Statement(place, keyword, rest.strip(), []))
    return [statement for statement in statements if statement.keyword != "note"]


def _part(statement: _Statement) -> Part:
    """Return the part that `part none` or `part NAME at row R, column C` and the rows below it describe."""
    place, rows = statement.place, tuple(row for _, row in statement.rows)
    if statement.rest == NOTHING.name:
        if rows:
            raise _syntax_error(statement.rows[0][0], "a row of art", "no rows below 'part none'")
        return NOTHING
    match = re.fullmatch(rf"({_NAME}) at row (\d+), column (\d+)", statement.rest)
    if not match or match[1] == NOTHING.name:
        raise _syntax_error(place, f"'part {statement.rest}'", "'part none' or 'part NAME at row R, column C'")
    if not rows:
        raise _syntax_error(place, f"the part {match[1]!r} without rows", "its rows of art, indented, below it")
    for here, row in statement.rows:
        unknown = set(row).difference(_CODES)
        if unknown:
            raise _syntax_error(here, f"the character {min(unknown)!r}", f"only {''.join(_CODES)} in a row of art")
        if len(row) != len(rows[0]):
            raise _syntax_error(here, f"a row of {len(row)} characters", f"{len(rows[0])} as in the rows above it")
    top, left = int(match[2]), int(match[3])
    bottom, right = top + len(rows) - 1, left + len(rows[0]) - 1
    if max(bottom, right) >= SIDE:
        got = f"a part that reaches row {bottom}, column {right}"
        raise _syntax_error(place, got, f"rows and columns 0 to {SIDE - 1}")
    return Part(match[1], top, left, rows)


def _used(statement: _Statement, shared: dict[str, tuple[Part, ...]]) -> tuple[Part, ...]:
    """Return the parts that `use FILE` or `use FILE with A for B` takes from the shared ones."""
    place = statement.place
    match = re.fullmatch(r"(\w+)(?: with (\S) for (\S))?", statement.rest)
    if not match:
        raise _syntax_error(place, f"'use {statement.rest}'", "'use FILE' or 'use FILE with A for B'")
    name, new, old = match.groups()
    _check_known(place, name, shared)
    parts = shared[name]
    if new is None:
        return parts
    _check_known(place, new, _CODES)
    if not any(old in row for part in parts for row in part.rows):
        raise _syntax_error(place, f"{old!r} to be replaced", f"a character of the parts of {name}")
    return tuple(replace(part, rows=tuple(row.replace(old, new) for row in part.rows)) for part in parts)


def _listed(place: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names of a list with commas, each known and there once."""
    names = tuple(name.strip() for name in text.split(","))
    for i, name in enumerate(names):
        _check_known(place, name, known)
        _check_new(place, name, names[:i])
    return names


def _settings(statements: list[_Statement]) -> dict[str, Any]:
    """Return the settings above the first slot of a kind, as arguments of `Kind`."""
    found: dict[str, Any] = {}
    colours: dict[str, tuple[str, ...]] = {}
    for statement in statements:
        place, keyword, rest = statement.place, statement.keyword, statement.rest
        if keyword == "colours":
            material, colon, names = rest.partition(":")
            if not colon:
                raise _syntax_error(place, f"'colours {rest}'", "'colours MATERIAL: NAME, NAME'")
            _check_known(place, material, PALETTES)
            _check_new(place, material, colours)
            colours[material] = _listed(place, names, PALETTES[material])
            continue
        _check_new(place, keyword, found)
        if keyword == "weight":
            if not re.fullmatch(r"\d+(\.\d+)?", rest) or float(rest) == 0:
                raise _syntax_error(place, f"'weight {rest}'", "a number above 0")
            found[keyword] = float(rest)
        elif keyword == "mirrored":
            if rest:
                raise _syntax_error(place, f"'mirrored {rest}'", "'mirrored' alone")
            found[keyword] = True
        elif keyword == "moves":
            found[keyword] = tuple(MOVES[move] for move in _listed(place, rest, MOVES))
        else:
            raise _syntax_error(place, f"{keyword!r} above the first slot", "a slot for it to stand in")
    if "moves" in found:
        found["shifts"] = found.pop("moves")
    return {**found, "colours": colours}


def _check_room(place: str, part: Part, kind: Kind) -> None:
    """Raise ValueError unless a part keeps a pixel free to each edge, for the outline, wherever its kind moves it."""
    codes = part.codes()
    drawn = np.argwhere((codes != BACKGROUND_CODE) & (codes != ERASE_CODE))
    if kind.mirrored:
        drawn = np.concatenate([drawn, drawn * (1, -1) + (0, SIDE - 1)])
    moved = drawn + np.array(kind.shifts)[:, None]
    if ((moved < 1) | (moved > SIDE - 2)).any():
        got = f"the part {part.name!r} drawn up to an edge of the picture"
        raise _syntax_error(place, got, f"only rows and columns 1 to {SIDE - 2} in every move, mirrored too")


def _slot(statements: list[_Statement], kind: Kind, shared: dict[str, tuple[Part, ...]]) -> Slot:
    """Return the slot of a statement `slot NAME` or `slot NAME outlined` and the parts after it."""
    place = statements[0].place
    name, _, how = statements[0].rest.partition(" ")
    _check_known(place, name, SLOT_NAMES)
    if how not in ("", "outlined"):
        raise _syntax_error(place, repr(how), "'outlined' or nothing after the name of the slot")
    parts: list[Part] = []
    for statement in statements[1:]:
        if statement.keyword not in ("part", "use"):
            raise _syntax_error(statement.place, f"{statement.keyword!r} below a slot", "it above the first slot")
        found = (_part(statement),) if statement.keyword == "part" else _used(statement, shared)
        for part in found:
            _check_new(statement.place, part.name, [other.name for other in parts])
            _check_room(statement.place, part, kind)
            parts.append(part)
    if not parts:
        raise _syntax_error(place, f"the slot {name!r} without parts", "at least one part below it")
    return Slot(name, tuple(parts), outlined=how == "outlined")


def _kind(path: Path, shared: dict[str, tuple[Part, ...]]) -> Kind:
    """Return the kind of an art file, whose file name has its class and its own name."""
    match = re.fullmatch(rf"({'|'.join(CLASS_NAMES)})_\d\d_([a-z][a-z0-9_-]*)\.txt", path.name)
    if not match:
        expected = f"a class ({', '.join(CLASS_NAMES)}), two digits and a name, as in 'food_04_carrot.txt'"
        raise _syntax_error(path.parent, f"a file named {path.name!r}", expected)
    statements = _statements(path, KIND_KEYWORDS)
    starts = [i for i, statement in enumerate(statements) if statement.keyword == "slot"]
    if not starts:
        raise _syntax_error(path, "no slot", "at least one line 'slot NAME' with parts below it")
    kind = Kind(match[2].replace("_", " "), match[1], (), **_settings(statements[: starts[0]]))
    slots: list[Slot] = []
    for start, end in zip(starts, [*starts[1:], len(statements)], strict=True):
        slot = _slot(statements[start:end], kind, shared)
        _check_new(statements[start].place, slot.name, [other.name for other in slots])
        slots.append(slot)
    return replace(kind, slots=tuple(slots))


def _listing(folder: Path) -> list[Path]:
    """Return the paths in a folder in the order of their names, without hidden files."""
    if not folder.is_dir():
        raise _syntax_error(folder, "no such folder", "a folder of art")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_kinds(folder: str | Path = ART) -> tuple[Kind, ...]:
    """Read every kind of a folder of art: class by class, and in each class in the order of the file names.

    Args:
        folder: has a file `CLASS_NN_name.txt` for each kind, and a folder `shared` with shared parts; by default that
            of the package.

    Returns:
        The kinds.

    Raises:
        ValueError: if a file has a syntax error (the message gives file, line, what was found and what was expected), a
            class has no kind, two kinds have the same name, or another file is there.
    """
    folder = Path(folder)
    shared = {}
    for path in _listing(folder / "shared"):
        if not re.fullmatch(r"\w+\.txt", path.name):
            raise _syntax_error(path.parent, f"a file named {path.name!r}", "a name such as 'round_hats.txt'")
        shared[path.stem] = tuple(_part(statement) for statement in _statements(path, SHARED_KEYWORDS))
    kinds: dict[str, Kind] = {}
    for path in _listing(folder):
        if path.name not in ("shared", "README.md"):
            kind = _kind(path, shared)
            _check_new(str(path), kind.name, kinds)
            kinds[kind.name] = kind
    for class_name in CLASS_NAMES:
        if class_name not in {kind.class_name for kind in kinds.values()}:
            raise _syntax_error(folder, f"no {class_name}", f"at least one file such as '{class_name}_01_name.txt'")
    return tuple(sorted(kinds.values(), key=lambda kind: CLASS_NAMES.index(kind.class_name)))
