"""Long work: the one progress bar that shows it, and the function that runs it to its end."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
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

    run.__name__ = run.__qualname__ = name
    result = inspect.signature(finish).return_annotation
    run.__signature__ = inspect.signature(steps).replace(return_annotation=result)
    return run
