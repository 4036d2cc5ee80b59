"""What a terminal shows: progress bars, texts without control characters; and the last item of a long iterator."""

import os
import unicodedata
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm.auto import tqdm

QUIET_VARIABLE = "HW3_QUIET"
Item = TypeVar("Item")


def quiet() -> bool:
    """Whether progress bars are off: HW3_QUIET is set while notebooks are executed and tested."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def progress(
    items: Iterable | None, *, total: int | None = None, desc: str | None = None, show: bool = True, **options: Any
) -> tqdm:
    """Wrap an iterable in a progress bar that refreshes once a second and goes when it is done.

    Args:
        items: what to iterate over; None for a bar that the caller updates.
        total: how many there are, where `items` does not know.
        desc: what is being done.
        show: False hides the bar.
        options: further arguments of tqdm.

    The environment variable HW3_QUIET=1 turns every bar off (set while notebooks are executed and tested, so that
    stored outputs hold none).
    """
    desc = None if desc is None else printable(desc)
    return tqdm(items, total=total, desc=desc, disable=quiet() or not show, mininterval=1, leave=False, **options)


def without_control(text: str, keep: str = "") -> str:
    """A text with a space for each control character and each mark that turns the direction of writing.

    Bytes of a file name that are not UTF-8 are written as escapes.

    Args:
        text: for a terminal or a report.
        keep: control characters that stay.
    """
    valid = text.encode("utf-8", "backslashreplace").decode()
    return "".join(" " if c not in keep and _is_control(c) else c for c in valid)


def _is_control(c: str) -> bool:
    turns = "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"
    return turns or unicodedata.category(c) in ("Cc", "Zl", "Zp")


def printable(text: str) -> str:
    """A text in one line, without control characters and without marks that turn the direction of writing."""
    return " ".join(without_control(text).split())


class Terminal:
    """A text stream whose prints have no control characters but line breaks and tabs, whatever name they contain."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self.stream.write(without_control(text, keep="\n\r\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def close_bars() -> None:
    """Clear every progress bar, so that the next message starts on a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def last(states: Iterable[Item]) -> Item:
    """Go to the end of an iterator and return its last item, keeping one at a time."""
    return deque(states, maxlen=1).pop()
