"""PASS lines: each claim of a notebook checked by a number, and the table of items at its end."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hw3utils.course import workshop
from hw3utils.course.assignment import ANSWER, ITEMS, MIMETYPE, SECTIONS

PASSED, ANSWERED, NOT_WRITTEN, NOT_PASSED = "passed", "answered", "not written", "not passed"
NOTHING = "no exercise"


class Report:
    """The claims that a notebook checks, by graded item.

    Every check prints one line, `measured ..., expected ...`, and raises AssertionError if the claim does not hold, so
    that a run of the notebook stops there. Numbers are printed with so many digits as their tolerance asks for, and as
    a bound where they are nothing but rounding errors, so that the lines are the same on every machine. Those that
    change from run to run are marked.

    Args:
        notebook: number of the notebook, "01" to "07"; 07 has sections without points in place of items.

    >>> Report("01").check("Q1.P1", "one half, computed in two ways", 1 / 2, expected=0.5, tolerance=0.01)
    PASS  Q1.P1  one half, computed in two ways: measured 0.500, expected 0.5 ± 0.01
    """

    def __init__(self, notebook: str) -> None:
        known = ITEMS | SECTIONS
        homes = sorted({home for item in known.values() for home in item.homes})
        if notebook not in homes:
            raise ValueError(f"there is no notebook {notebook!r}, expected one of {', '.join(homes)}.")
        self.notebook = notebook
        # For each item its claims: text, number, and whether it holds. A cell that is run again replaces its own.
        self.claims: dict[str, list[tuple[str, str, bool]]] = {
            name: [] for name, item in known.items() if notebook in item.homes
        }
        self._exercises = workshop.passed_exercises()

    def check(
        self,
        item: str,
        claim: str,
        value: float | Tensor,
        *,
        expected: float | None = None,
        tolerance: float | None = None,
        below: float | None = None,
        above: float | None = None,
        fresh: bool = False,
    ) -> None:
        """Compare a number with what is expected, print the line, and keep it for the table.

        Args:
            item: the graded item, for example "Q1.P2".
            claim: what is measured.
            value: the number, or a tensor of numbers that must all hold.
            expected, tolerance: the number must lie within the tolerance of the expected one.
            below, above: or limits, at least one; both excluded. A positive upper limit alone bounds an error, whose
                sign is ignored.
            fresh: the number changes from run to run (fresh random input, a student's own data, training): it is
                marked with "in this run", and a comparison of runs ignores it, see .nbval.cfg.

        Raises:
            AssertionError: when the number is not within its limits, or not a number.
            ValueError: on an item that is not in this notebook, without limits, or without a number.
        """
        if item not in self.claims:
            raise ValueError(f"{item!r} is not in notebook {self.notebook}, expected one of {list(self.claims)}.")
        span, low, high = _limits(expected, tolerance, below, above)
        value = value.detach().cpu() if isinstance(value, Tensor) else value
        numbers = torch.as_tensor(value, dtype=torch.float64).flatten()
        if not numbers.numel():
            raise ValueError(f"{claim!r} got no number, expected at least one.")
        error = above is None and below is not None and below > 0
        numbers = numbers.abs() if error else numbers

        def holds(number: float) -> bool:
            return math.isfinite(number) and low < number < high

        ends = [float(numbers.max()), float(numbers.min())]
        worst = next((number for number in ends if not holds(number)), ends[below is None])
        if tolerance is not None:
            decimals = 1 - math.floor(math.log10(tolerance)) if tolerance < 1 else 0
            shown = f"{worst:.{decimals}f}" if decimals < 7 else f"{worst:.4g}"
        else:
            # An upper limit alone bounds an error: below a thousandth of it rounding may decide.
            shown = _digits(worst, below / 1000 if error and below else 0.0, holds)
        shown += " in this run" if fresh else ""
        line = f"{'PASS' if holds(worst) else 'FAIL'}  {item}  {claim}: measured {shown}, expected {span}"
        print("\n".join([line, *workshop.notes()]))
        count, self._exercises = self._exercises, workshop.passed_exercises()
        result = shown if holds(worst) else f"{shown}: FAIL, expected {span}"
        kept = [row for row in self.claims[item] if row[0] != claim]
        self.claims[item] = [*kept, (claim, result, holds(worst))]
        if not holds(worst):
            if self._exercises > count:
                workshop.withdraw(line)
            raise AssertionError(line)

    def table(self) -> None:
        """Show the table of items: points, what was checked, the number, the state; `hw3 run` collects it.

        An item of programming is "passed" when each of its exercises has passed; a theory item is "answered" when the
        notebook, as last saved, has text in each of its answer cells. Both are "not written" otherwise. A section of
        notebook 07 without checks has "no exercise". A measurement outside its limits is a row marked with FAIL; it
        does not change the state of an item that has exercises.
        """
        from IPython.display import display

        cells = _graded_cells(self.notebook)
        rows, plain, data = [], [], {}
        for item, claims in self.claims.items():
            points, title = (ITEMS | SECTIONS)[item][:2]
            state = _state(points, claims, cells.get(item, []))
            for n, (claim, shown, _) in enumerate(claims or [("nothing yet", "", False)]):
                lead = (item, str(points), title) if n == 0 else ("", "", "")
                rows.append((*lead, claim, shown, state if n == 0 else ""))
            plain.append(f"{item}  {points} points  {title}: {state}")
            plain += [f"    {claim}: {shown}" for claim, shown, good in claims if not good]
            data[item] = {"points": points, "checks": len(claims), "state": state}
        head = ("item", "points", "title", "what was checked", "number", "state")
        display({"text/html": _html(head, rows), "text/plain": "\n".join(plain), MIMETYPE: data}, raw=True)


def _limits(
    expected: float | None, tolerance: float | None, below: float | None, above: float | None
) -> tuple[str, float, float]:
    """The limits in words, and as an open interval."""
    if expected is not None and tolerance is not None and below is above is None:
        if not tolerance > 0:
            raise ValueError(f"tolerance is {tolerance}, expected a number above 0.")
        return f"{expected:g} ± {tolerance:g}", expected - tolerance, expected + tolerance
    if expected is not None or tolerance is not None or (below is None and above is None):
        raise ValueError("a check needs expected and tolerance, or below, or above, or both limits.")
    words = [f"{name} {limit:g}" for name, limit in (("above", above), ("below", below)) if limit is not None]
    return " and ".join(words), -math.inf if above is None else above, math.inf if below is None else below


def _digits(value: float, floor: float, holds: Any) -> str:
    """A number to two digits, with more where its rounding would lie on the other side of a limit."""
    if abs(value) < floor:
        return f"below {floor:.0e}"
    whole = len(str(int(abs(value)))) if abs(value) < 1e6 else 1
    texts = [f"{value:.{digits}g}" for digits in range(max(2, whole), 10)]
    return next((text for text in texts if holds(float(text)) == holds(value)), texts[-1])


def _graded_cells(notebook: str) -> dict[str, list[tuple[bool, str]]]:
    """The graded and the check cells of each item, as pairs (code, source), from the file in the working folder.

    Empty where there is not exactly one file whose name begins with the notebook's number, or it cannot be read.
    """
    files = list(Path().glob(f"{notebook}_*.ipynb"))
    try:
        content = json.loads(files[0].read_text(encoding="utf-8")) if len(files) == 1 else {}
        found: dict[str, list[tuple[bool, str]]] = {}
        for cell in content.get("cells", []):
            mark = cell.get("metadata", {}).get("nbgrader", {})
            name = mark.get("grade_id")
            if isinstance(name, str) and (mark.get("grade") or name.endswith("-check")):
                item = ".".join(name.split("-")[:2])
                found.setdefault(item, []).append((cell["cell_type"] == "code", "".join(cell["source"]).strip()))
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
    return found


def _state(points: int, claims: list[tuple[str, str, bool]], cells: list[tuple[bool, str]]) -> str:
    """The state of an item: of its answers, and of the last call of each of its checks."""
    answers = [source for code, source in cells if not code]
    if not cells:
        if not claims:
            return NOT_WRITTEN if points else NOTHING
        return PASSED if all(good for _, _, good in claims) else NOT_PASSED
    names = [name for code, source in cells if code for name in re.findall(r"\bcheck_\w+", source)]
    states = [workshop.outcomes.get(name, NOT_WRITTEN) for name in names]
    if any(source in ("", ANSWER) for source in answers) or NOT_WRITTEN in states:
        return NOT_WRITTEN
    if NOT_PASSED in states:
        return NOT_PASSED
    return ANSWERED if answers else PASSED


def _html(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    from html import escape

    def cells(tag: str, row: tuple[Any, ...]) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(cell)}</{tag}>' for cell in row) + "</tr>"

    return (
        f"<table><thead>{cells('th', head)}</thead><tbody>{''.join(cells('td', row) for row in rows)}</tbody></table>"
    )
