"""One progress bar for everything that takes long."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

QUIET_VARIABLE = "HW3_QUIET"


def progress(items: Iterable, *, total: int | None = None, desc: str | None = None, **kwargs: Any) -> Iterator:
    """Wrap an iterable in a progress bar that refreshes once a second and disappears when it is done.

    The environment variable HW3_QUIET=1 turns every bar off (set while notebooks are executed and tested, so that
    stored outputs hold none).
    """
    quiet = os.environ.get(QUIET_VARIABLE, "") not in ("", "0")
    return tqdm(items, total=total, desc=desc, disable=quiet, mininterval=1, leave=False, **kwargs)
