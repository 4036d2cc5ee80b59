"""The engine of the sprite grammar: parts of ASCII art, slots, kinds, palettes.

A kind (an apple, an adventurer) is a stack of slots; each slot holds alternative parts; one part of each slot, one
colour for each material, one mirror state and one shift make one picture. The outline is added by rule, so that
it is closed whatever parts meet.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

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

_RAMPS = {
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


def _blend(ramp, towards, share):
    return tuple(tuple(round((1 - share) * c + share * d) for c, d in zip(tone, towards, strict=True)) for tone in ramp)


# No colour stands twice in this table: a picture then tells its grammar derivation, and counting derivations with
# different drawings is counting pictures.
PALETTES = {
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
    """One piece of art: `rows` of characters whose top left corner stands at row `top`, column `left`."""

    name: str
    top: int
    left: int
    rows: tuple[str, ...]

    def codes(self):
        """Return the (16, 16) uint8 index map of the part alone."""
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        for y, row in enumerate(self.rows, self.top):
            for x, character in enumerate(row, self.left):
                canvas[y, x] = _CODES[character]
        return canvas


def part(name, top, left, art):
    """Return a `Part` from a multi-line string; blank lines and margins of the source text do not count."""
    return Part(name, top, left, tuple(line.strip() for line in art.split("\n") if line.strip()))


NOTHING = Part("none", 0, 0, ())


@dataclass(frozen=True)
class Slot:
    """A place of a kind: one of `parts` is drawn; `outlined` parts bring their own dark rim over what lies below."""

    name: str
    parts: tuple[Part, ...]
    outlined: bool = False


@dataclass(frozen=True)
class Kind:
    """One sort of thing: its class, slots from back to front, and the colours that each material may take."""

    name: str
    class_name: str
    slots: tuple[Slot, ...]
    colours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shifts: tuple[tuple[int, int], ...] = ((0, 0),)
    mirrored: bool = False
    weight: float = 1.0

    def options(self, material):
        """Return the names of the colours that `material` may take in this kind."""
        return self.colours.get(material, tuple(PALETTES[material]))


def _rim(codes):
    """Return where the empty pixels beside (not diagonal to) a coloured pixel are: codes (S, 16, 16) -> bool."""
    coloured = np.pad(codes >= FIRST_COLOUR, ((0, 0), (1, 1), (1, 1)))
    near = coloured[:, :-2, 1:-1] | coloured[:, 2:, 1:-1] | coloured[:, 1:-1, :-2] | coloured[:, 1:-1, 2:]
    return near & (codes == BACKGROUND_CODE)


def structures(kind):
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
        # The art keeps a free margin as wide as the shift, so nothing wraps round (a test checks it).
        seen = np.roll(seen, (down, right), axis=(1, 2))
        all_codes.append(np.where(_rim(seen), np.uint8(OUTLINE_CODE), seen))
        pose = np.broadcast_to(np.array([turned, down, right], np.int16), (len(canvas), 3))
        all_choices.append(np.concatenate([choices, pose], axis=1))
    return np.concatenate(all_codes), np.concatenate(all_choices)
