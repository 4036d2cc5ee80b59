"""The embedded sprite generator: draws pictures and data sets from the grammar, counts it, and tests its rules."""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np

from hw3utils.arguments import check_count
from hw3utils.sprites.grammar import (
    BACKGROUND_CODE,
    CLASS_NAMES,
    FIRST_COLOUR,
    MATERIALS,
    N_CODES,
    OUTLINE_CODE,
    OUTLINES,
    PALETTES,
    SIDE,
    SLOT_NAMES,
    WHITE,
    Kind,
    read_kinds,
    structures,
)

KINDS: tuple[Kind, ...] = read_kinds()

# Materials with a choice of colours: only these have a colour attribute.
_COLOURED = tuple(material for material, palette in PALETTES.items() if len(palette) > 1)


def _attribute_values(kinds: Iterable[Kind]) -> dict[str, tuple[str, ...]]:
    """Return the name of each attribute of a drawing -> the names of its values; parts of one name are one value."""
    parts = [(slot.name, part.name) for kind in kinds for slot in kind.slots for part in slot.parts]
    return {
        "class": CLASS_NAMES,
        "kind": tuple(kind.name for kind in kinds),
        **{name: tuple(dict.fromkeys(("none", *(p for slot, p in parts if slot == name)))) for name in SLOT_NAMES},
        **{f"{material} colour": ("none", *PALETTES[material]) for material in _COLOURED},
        "outline": tuple(OUTLINES),
        "facing": ("as drawn", "mirrored"),
        "down": ("-1", "0", "1"),
        "right": ("-1", "0", "1"),
    }


#: Name of each attribute of a drawing -> the names of its values. Value 0 of a slot or colour is "none".
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = _attribute_values(KINDS)


def as_rows(arrays: np.ndarray) -> np.ndarray:
    """View each array of a batch as one opaque item, for `np.unique`: (N, ...) uint8 -> (N,) void."""
    flat = np.ascontiguousarray(arrays).reshape(len(arrays), -1)
    return flat.view(f"V{flat.shape[1]}")[:, 0]


@cache
def _drawings(kind_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the structures of a kind: codes (S, 16, 16) uint8, choices (S, ...) and visible materials (S, M) bool."""
    codes, choices = structures(KINDS[kind_index])
    # Where parts hide one another, choices with the same drawing take the name of the first: one name a picture.
    _, first, same = np.unique(as_rows(codes), return_index=True, return_inverse=True)
    choices = choices[first[same]]
    visible = np.zeros((len(codes), N_CODES), bool)
    np.put_along_axis(visible, codes.reshape(len(codes), -1).astype(np.intp), True, axis=1)
    return codes, choices, np.any(visible[:, FIRST_COLOUR:].reshape(len(codes), len(MATERIALS), 3), axis=2)


def _packed(colour: Sequence[int]) -> int:
    red, green, blue = colour
    return red | green << 8 | blue << 16


_TONES = {
    material: np.array([[_packed(tone) for tone in ramp] for ramp in palette.values()], np.uint32)
    for material, palette in PALETTES.items()
}
_OUTLINE_TONES = np.array([_packed(colour) for colour in OUTLINES.values()], np.uint32)


def draw_sprites(n: int, *, seed: int | Sequence[int] = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draw n sprites from the grammar, each class equally often, in random order.

    Args:
        n: how many, at least 1.
        seed: decides everything; the same n and seed give the same bytes.

    Returns:
        images uint8 (n, 16, 16, 3) on a white background; labels uint8 (n, 5), one-hot in the order of `CLASS_NAMES`;
        attributes: for each name of `ATTRIBUTE_VALUES` an int64 array (n,) of indices into its values.

    Raises:
        ValueError: if n is not a positive integer.
    """
    n = check_count(n, "n")
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.arange(n) % len(CLASS_NAMES))
    kind_of = np.empty(n, np.int64)
    for c, name in enumerate(CLASS_NAMES):
        members = [k for k, kind in enumerate(KINDS) if kind.class_name == name]
        weights = np.array([KINDS[k].weight for k in members])
        chosen = classes == c
        kind_of[chosen] = rng.choice(members, size=chosen.sum(), p=weights / weights.sum())

    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    attributes = {name: np.zeros(n, np.int64) for name in ATTRIBUTE_VALUES}
    attributes["class"][:] = classes
    attributes["kind"][:] = kind_of
    for k in range(len(KINDS)):
        rows = np.flatnonzero(kind_of == k)
        if len(rows):
            images[rows] = _draw_kind(k, rows, attributes, rng)
    labels = np.eye(len(CLASS_NAMES), dtype=np.uint8)[classes]
    return images, labels, attributes


def _draw_kind(k: int, rows: np.ndarray, attributes: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw one picture of kind k for each of `rows` and fill in its attributes there: uint8 (R, 16, 16, 3)."""
    kind = KINDS[k]
    codes, choices, visible = _drawings(k)
    picked = rng.integers(len(codes), size=len(rows))
    for column, slot in enumerate(kind.slots):
        values = np.array([ATTRIBUTE_VALUES[slot.name].index(p.name) for p in slot.parts])
        attributes[slot.name][rows] = values[choices[picked, column]]
    for name, column, offset in (("facing", -3, 0), ("down", -2, 1), ("right", -1, 1)):
        attributes[name][rows] = choices[picked, column] + offset

    palette = np.empty((len(rows), N_CODES), np.uint32)
    palette[:, BACKGROUND_CODE] = _packed(WHITE)
    outline = rng.integers(len(OUTLINES), size=len(rows))
    attributes["outline"][rows] = outline
    palette[:, OUTLINE_CODE] = _OUTLINE_TONES[outline]
    for i, material in enumerate(MATERIALS):
        names = list(PALETTES[material])
        allowed = np.array([names.index(option) for option in kind.options(material)])
        colour = allowed[rng.integers(len(allowed), size=len(rows))]
        first = FIRST_COLOUR + 3 * i
        palette[:, first : first + 3] = _TONES[material][colour]
        if material in _COLOURED:
            attributes[f"{material} colour"][rows] = np.where(visible[picked, i], colour + 1, 0)

    flat = codes[picked].reshape(len(rows), -1).astype(np.intp)
    packed = np.take_along_axis(palette, flat, axis=1)
    channels = packed.astype("<u4").view(np.uint8).reshape(len(rows), SIDE, SIDE, 4)
    return channels[..., :3]


def count_grammar() -> dict[str, int]:
    """Count the distinct pictures of the grammar exactly: {class name: pictures, ..., "total": pictures}.

    No colour belongs to two materials or tones, so a picture determines its index map and its visible colours. The
    count is therefore the sum, over the distinct index maps of a class, of the product of the visible colour choices.
    """
    counts = {}
    for name in CLASS_NAMES:
        seen: set[bytes] = set()
        total = 0
        for k, kind in enumerate(KINDS):
            if kind.class_name != name:
                continue
            codes, _, visible = _drawings(k)
            _, first = np.unique(as_rows(codes), return_index=True)
            maps = {codes[i].tobytes() for i in first}
            if seen & maps:
                raise AssertionError(f"Two kinds of the class {name} share a drawing.")
            seen |= maps
            options = np.array([len(kind.options(material)) for material in MATERIALS])
            total += int(np.where(visible[first], options, 1).prod(axis=1, dtype=np.int64).sum()) * len(OUTLINES)
        counts[name] = total
    counts["total"] = sum(counts.values())
    return counts


@lru_cache(maxsize=2)
def _nearest(tolerance: int) -> np.ndarray:
    """Return for each RGB colour the number of the grammar's nearest, 0 where none is within the tolerance (256^3).

    Distance is the largest difference of a channel.
    """
    colours: list[tuple[int, ...]] = [WHITE, *OUTLINES.values()]
    colours += [tone for palette in PALETTES.values() for ramp in palette.values() for tone in ramp]
    table = np.zeros((256, 256, 256), np.uint8)
    distance = np.full(table.shape, tolerance + 1, np.uint8)
    for number, colour in enumerate(colours, 1):
        cube = tuple(slice(max(0, c - tolerance), c + tolerance + 1) for c in colour)
        off = [np.abs(np.arange(256)[part] - c) for part, c in zip(cube, colour, strict=True)]
        here = np.maximum(np.maximum(off[0][:, None, None], off[1][None, :, None]), off[2])
        closer = here < distance[cube]
        table[cube][closer] = number
        distance[cube][closer] = here[closer]
    return table


#: What the rules of the grammar allow: the share of white pixels, and the colours (white too) of one picture.
BACKGROUND_SHARE = (0.12, 0.85)
MOST_COLOURS = 27
_OUTLINE_LEVEL = max(max(colour) for colour in OUTLINES.values())


def grammar_accepts(images: np.ndarray, *, tolerance: int = 12) -> np.ndarray:
    """Test which pictures follow the rules of the grammar; every drawn sprite does.

    The rules: every pixel is within `tolerance` of a palette colour in each channel; the four corners are white and
    the share of white is within `BACKGROUND_SHARE`; the outline is closed (pixels that touch a white one or the
    picture's edge are white or as dark as an outline); and at most `MOST_COLOURS` colours, a few more with a tolerance.

    Args:
        images: uint8 (N, 16, 16, 3).
        tolerance: levels (0 to 24) that a channel may be off, for pictures made by a network.

    Returns:
        bool (N,).

    Raises:
        ValueError: if the images are not uint8 (N, 16, 16, 3) or the tolerance is out of range.
    """
    _check_pictures(images)
    if not 0 <= tolerance <= 24:
        raise ValueError(f"Got tolerance = {tolerance}, expected 0 to 24 levels: beyond that ivory counts as white.")
    red, green, blue = np.moveaxis(images, -1, 0)
    colour = _nearest(int(tolerance))[red, green, blue]
    white = np.all(images >= 255 - tolerance, axis=-1)
    dark = np.all(images <= _OUTLINE_LEVEL + tolerance, axis=-1)
    known = (colour > 0).all(axis=(1, 2))
    corners = white[:, (0, 0, -1, -1), (0, -1, 0, -1)].all(axis=1)
    share = white.mean(axis=(1, 2))
    fits = (share >= BACKGROUND_SHARE[0]) & (share <= BACKGROUND_SHARE[1])

    closed = ~(_rim_of(white) & ~dark).any(axis=(1, 2))
    # A slightly wrong pixel may be nearest to another colour of the palette, hence a few more colours.
    most = MOST_COLOURS + 2 * int(tolerance)
    number = 1 + (np.diff(np.sort(colour.reshape(len(colour), -1), axis=1), axis=1) != 0).sum(axis=1)
    return known & corners & fits & closed & (number <= most)


def outline_share(images: np.ndarray, *, white: int = 215, dark: int = 95) -> np.ndarray:
    """Measure how closed the outline of each picture is: the share of dark pixels among those that touch the white.

    Unlike `grammar_accepts` it needs no exact colours and is continuous, so it also ranks samples of a network. Drawn
    sprites have 0.99 on average, uniform noise 0.2.

    Args:
        images: uint8 (N, 16, 16, 3).
        white: level that all channels of a background pixel reach.
        dark: level that the mean channel of an outline pixel stays under.

    Returns:
        float64 (N,), in [0, 1]; 0 for a picture that is all white.

    Raises:
        ValueError: if the images are not uint8 (N, 16, 16, 3).
    """
    _check_pictures(images)
    rim = _rim_of(images.min(axis=-1) >= white)
    return (rim & (images.mean(axis=-1) < dark)).sum(axis=(1, 2)) / np.maximum(rim.sum(axis=(1, 2)), 1)


def _check_pictures(images: np.ndarray) -> None:
    """Raise ValueError unless the images are uint8 (N, 16, 16, 3)."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        got = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise ValueError(f"Got images of {got}, expected uint8 (N, 16, 16, 3): a batch of pictures, channels last.")


def _rim_of(background: np.ndarray) -> np.ndarray:
    """The pixels that are not background and touch it, or the picture's edge, on one of four sides."""
    outside = np.pad(background, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    beside = outside[:, :-2, 1:-1] | outside[:, 2:, 1:-1] | outside[:, 1:-1, :-2] | outside[:, 1:-1, 2:]
    return beside & ~background


N_TRAIN, N_TEST = 89_400, 4_096


MOST_EMBEDDED = 500_000


def sprite_set(
    n_train: int = N_TRAIN, n_test: int = N_TEST, *, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    """Draw a training and a held-out set in which all pictures, of both together, are distinct.

    Args:
        n_train: pictures to train on, at least 1.
        n_test: pictures held out, at least 1; both together at most 500,000.
        seed: decides everything.

    Returns:
        Two triples (images, labels, attributes) as `draw_sprites` returns them.

    Raises:
        ValueError: if a size is out of range.
    """
    wanted = n_train + n_test
    if n_train < 1 or n_test < 1 or wanted > MOST_EMBEDDED:
        raise ValueError(
            f"Got n_train = {n_train} and n_test = {n_test}, expected at least 1 each and at most {MOST_EMBEDDED} "
            "together: ask for fewer sprites."
        )
    images, labels, attributes = draw_sprites(wanted + wanted // 20 + 16, seed=[seed, 0])
    attempt = 0
    while True:
        # The first of each picture, in the order of drawing.
        first = np.sort(np.unique(as_rows(images), return_index=True)[1])
        images, labels = images[first], labels[first]
        attributes = {name: values[first] for name, values in attributes.items()}
        if len(images) >= wanted:
            break
        # About one sprite in forty repeats an earlier one; draw what is still missing.
        attempt, missing = attempt + 1, wanted - len(images)
        more = draw_sprites(missing + missing // 20 + 16, seed=[seed, attempt])
        images, labels = np.concatenate([images, more[0]]), np.concatenate([labels, more[1]])
        attributes = {name: np.concatenate([old, more[2][name]]) for name, old in attributes.items()}

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        return images[start:stop], labels[start:stop], {name: v[start:stop] for name, v in attributes.items()}

    return part(0, n_train), part(n_train, wanted)
