"""One progress bar for everything that takes long."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

QUIET_VARIABLE = "HW3_QUIET"


def quiet() -> bool:
    """Whether nobody looks on: HW3_QUIET is set while notebooks are executed and tested."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def progress(
    items: Iterable | None, *, total: int | None = None, desc: str | None = None, show: bool = True, **options: Any
) -> tqdm:
    """Wrap an iterable in a progress bar that refreshes once a second and goes when it is done.

    Args:
        items: what to go through; None for a bar that the caller updates.
        total: how many there are, where `items` does not know.
        desc: what is being done.
        show: False for a bar that is never drawn.
        options: further arguments of tqdm.

    The environment variable HW3_QUIET=1 turns every bar off (set while notebooks are executed and tested, so that
    stored outputs hold none).
    """
    return tqdm(items, total=total, desc=desc, disable=quiet() or not show, mininterval=1, leave=False, **options)


def close_bars() -> None:
    """Take every progress bar off the screen, so that what is said next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
