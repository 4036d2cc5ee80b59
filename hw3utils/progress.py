"""The progress bar of all long work."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

QUIET_VARIABLE = "HW3_QUIET"


def quiet() -> bool:
    """Whether HW3_QUIET is set: while notebooks are executed and tested."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def progress(
    items: Iterable | None, *, total: int | None = None, desc: str | None = None, show: bool = True, **options: Any
) -> tqdm:
    """Wrap an iterable in a progress bar that refreshes once a second and disappears at the end.

    Args:
        items: the iterable; None for a bar that the caller updates.
        total: the number of items, where `items` has no length.
        desc: label of the bar.
        show: False for a bar that is never drawn.
        options: further arguments of tqdm.

    The environment variable HW3_QUIET=1 turns every bar off (set while notebooks are executed and tested, so that their
    stored outputs have none).
    """
    return tqdm(items, total=total, desc=desc, disable=quiet() or not show, mininterval=1, leave=False, **options)


def close_bars() -> None:
    """Remove every progress bar from the screen, so that the next message starts a line."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def run_to_end(
    steps: Callable[..., Iterator[Any]], name: str, finish: Callable[[Iterator[Any]], Any]
) -> Callable[..., Any]:
    """Make the function that runs another one's iterator to its end: `sample_ddpm` of `ddpm_steps`, for example.

    Args:
        steps: the function, with the documentation of both.
        name: of the function made.
        finish: what it makes of the iterator; the annotation of its result becomes that of the function.

    Returns:
        A function with the signature (but for the result) and the documentation of `steps`.
    """

    @functools.wraps(steps)
    def run(*args: Any, **kwargs: Any) -> Any:
        return finish(steps(*args, **kwargs))

    made: Any = run
    made.__name__ = made.__qualname__ = name
    result = inspect.signature(finish).return_annotation
    made.__signature__ = inspect.signature(steps).replace(return_annotation=result)
    return made
