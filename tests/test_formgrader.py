"""A grader reads and marks an answer in nbgrader's own page, in a real browser; the mark is in the final table."""

import csv

import pytest
from lab_server import BROWSER, jupyter_lab
from test_marks import STUDENTS, hand_in, homework  # noqa: F401

from hw3utils.__main__ import main
from hw3utils.course import grade, gradebook
from hw3utils.course.nbgrading import ASSIGNMENT, Course

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


def test_an_answer_is_marked_and_commented_in_the_formgrader(homework, tmp_path):  # noqa: F811
    folder, out = hand_in(tmp_path / "in" / "ann", homework, *STUDENTS["ann"]), tmp_path / "out"
    grade.grade([folder], out, timeout=60, seed=3)
    with gradebook.opened(Course(out)) as book:
        [notebook] = book.find_submission(ASSIGNMENT, "ann").notebooks
        place = f"formgrader/submissions/{notebook.id}"
    with jupyter_lab(out) as address, playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = chromium.new_page()
        page.goto(f"{address}/{place}")
        page.wait_for_selector("#Q1-T1-answer")
        assert "Because." in page.inner_text("body")
        for box, text, kind in (("#Q1-T1-answer", "4", "grade"), ("textarea.comment >> nth=-1", "Say why.", "comment")):
            with page.expect_response(lambda r, kind=kind: f"api/{kind}/" in r.url and r.request.method == "PUT"):
                page.fill(box, text)
                page.press(box, "Tab")
        chromium.close()
    assert main(["marks", str(out)]) == 0
    [row] = csv.DictReader((out / "marks.csv").open(encoding="utf-8"))
    assert (row["Q1.T1"], row["total"], row["unread"]) == ("4", "6", "")
    assert "Say why." in (out / "ann" / "01_small.html").read_text(encoding="utf-8")
