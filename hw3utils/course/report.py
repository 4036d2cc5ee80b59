"""PASS lines: the claims of a notebook, each compared with limits, and the table of items at its end."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hw3utils.course.assignment import ITEMS, MIMETYPE, SECTIONS


def _show(value: float, floor: float, holds: Callable[[float], bool]) -> str:
    """A number with two digits, or its integer part, or as many as are needed to be on the right side of the limits.

    A number below `floor` is shown as "below".
    """
    if abs(value) < floor:
        return f"below {floor:.0e}"
    integer_digits = len(str(int(abs(value)))) if abs(value) < 1e6 else 1
    texts = [f"{value:.{digits}g}" for digits in range(max(2, integer_digits), 10)]
    return next((text for text in texts if holds(float(text)) == holds(value)), texts[-1])


class Report:
    """The claims that a notebook checks, by graded item.

    Every check prints one line, and raises AssertionError if the claim is false. Numbers are printed with few digits,
    and rounding errors only by their order, so that the lines are equal on every machine; others are marked.

    Args:
        notebook: number of the notebook, "01" to "07"; 07 has sections without points in place of items.

    >>> Report("01").check("Q1.P1", "two ways to compute one half differ by", 1 / 2 - 0.5, below=1e-12)
    PASS  Q1.P1  two ways to compute one half differ by: below 1e-15 (must be below 1e-12)
    """

    def __init__(self, notebook: str) -> None:
        known = ITEMS | SECTIONS
        homes = sorted({home for item in known.values() for home in item.homes})
        if notebook not in homes:
            raise ValueError(f"there is no notebook {notebook!r}, expected one of {', '.join(homes)}.")
        self.notebook = notebook
        self.claims: dict[str, list[tuple[str, str]]] = {
            name: [] for name, item in known.items() if notebook in item.homes
        }

    def check(
        self,
        item: str,
        claim: str,
        value: float | Tensor,
        *,
        below: float | None = None,
        above: float | None = None,
        fresh: bool = False,
    ) -> None:
        """Compare a number with its limits, print the line, and keep it for the table.

        Args:
            item: the graded item, for example "Q1.P2".
            claim: what the number is.
            value: the number, or a tensor of numbers that must all be within the limits.
            below, above: limits, at least one; both excluded. A positive upper limit alone bounds the absolute value.
            fresh: the number differs between runs (random input, a student's own data, training) and is marked "in this
                run". A comparison of runs ignores it, see .nbval.cfg.

        Raises:
            AssertionError: when the number is outside of its limits, or not a number.
            ValueError: on an item of another notebook, without a limit, or without a number.
        """
        if item not in self.claims:
            raise ValueError(f"{item!r} has no home in notebook {self.notebook}, expected one of {list(self.claims)}.")
        if below is None and above is None:
            raise ValueError("a check needs a limit; give below, above, or both.")
        value = value.detach().cpu() if isinstance(value, Tensor) else value
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten()
        if not numbers.numel():
            raise ValueError(f"{claim!r} got no number, expected at least one.")
        if above is None and below > 0:
            numbers = numbers.abs()
        low, high = float(numbers.min()), float(numbers.max())

        def within(number: float) -> bool:
            return math.isfinite(number) and (above is None or number > above) and (below is None or number < below)

        limits = [f"{name} {limit:g}" for name, limit in (("above", above), ("below", below)) if limit is not None]
        holds = within(low) and within(high)
        number = high if below is not None and (within(low) or not within(high)) else low
        # Below a thousandth of the limit of an error, rounding decides.
        floor = below / 1000 if below is not None and above is None else 0.0
        shown = _show(number, floor, within) + (" in this run" if fresh else "")
        line = f"{'PASS' if holds else 'FAIL'}  {item}  {claim}: {shown} (must be {' and '.join(limits)})"
        print(line)
        if not holds:
            raise AssertionError(line)
        self.claims[item].append((claim, shown))

    def table(self) -> None:
        """Show the table of items: points, what was checked, the number, PASS or MISSING. `hw3 run` collects it.

        Raises:
            AssertionError: when an item of the notebook was not checked, after the table is shown.
        """
        from IPython.display import display

        rows, plain, data = [], [], {}
        for item, claims in self.claims.items():
            points, title = (ITEMS | SECTIONS)[item][:2]
            state = "PASS" if claims else "MISSING"
            for n, (claim, shown) in enumerate(claims or [("nothing yet", "")]):
                lead = (item, str(points), title) if n == 0 else ("", "", "")
                rows.append((*lead, claim, shown, state))
            plain.append(f"{item}  {points} points  {title}: {len(claims)} checked, {state}")
            data[item] = {"points": points, "checks": len(claims), "state": state}
        head = ("item", "points", "title", "what was checked", "number", "state")
        display({"text/html": _html(head, rows), "text/plain": "\n".join(plain), MIMETYPE: data}, raw=True)
        empty = [item for item, claims in self.claims.items() if not claims]
        if empty:
            raise AssertionError(f"nothing was checked for {', '.join(empty)}; run the cells above first.")


def _html(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    from html import escape

    def cells(tag: str, row: tuple[Any, ...]) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(cell)}</{tag}>' for cell in row) + "</tr>"

    return (
        f"<table><thead>{cells('th', head)}</thead><tbody>{''.join(cells('td', row) for row in rows)}</tbody></table>"
    )
