"""Progress bars, and the last item of a long iterator."""

import os
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
    return tqdm(items, total=total, desc=desc, disable=quiet() or not show, mininterval=1, leave=False, **options)


def close_bars() -> None:
    """Clear every progress bar, so that the next message starts on a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def last(states: Iterable[Item]) -> Item:
    """Go to the end of an iterator and return its last item, keeping one at a time."""
    return deque(states, maxlen=1).pop()
