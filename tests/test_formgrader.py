"""Marking an answer in nbgrader's formgrader, in a real browser."""

import base64
import csv
import io

import nbformat
import pytest
from course_helpers import hand_in, small_homework
from lab_server import BROWSER, jupyter_lab
from PIL import Image

from hw3utils.__main__ import main
from hw3utils.course.grading import session as grade
from hw3utils.course.notebooks.cells import ASSIGNMENT, Course
from hw3utils.course.records import gradebook

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    with small_homework(tmp_path_factory.mktemp("homework")) as edition:
        yield edition


# A script that ran here could mark with the grader's cookie.
ANSWERED = "Because. <script>document.title = 'attacked'</script><img src=x onerror=\"document.title = 'attacked'\">"


def attach_photo(path):
    """Put a photo of 37 by 20 pixels into the answer."""
    photo = io.BytesIO()
    Image.new("RGB", (37, 20), "teal").save(photo, "PNG")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source += "\n\n![](attachment:photo.png)"
    notebook.cells[2].attachments = {"photo.png": {"image/png": base64.b64encode(photo.getvalue()).decode()}}
    nbformat.write(notebook, path)


def test_an_answer_is_marked_and_commented_in_the_formgrader(homework, tmp_path):
    folder, out = (
        hand_in(tmp_path / "in" / "ann", homework, "def double(x): return 2 * x", ANSWERED, "4711"),
        tmp_path / "out",
    )
    attach_photo(folder / homework.name)
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
        assert page.title() != "attacked"
        assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [37]
        for box, text, kind in (("#Q1-T1-answer", "4", "grade"), ("textarea.comment >> nth=-1", "Say why.", "comment")):
            with page.expect_response(lambda r, kind=kind: f"api/{kind}/" in r.url and r.request.method == "PUT"):
                page.fill(box, text)
                page.press(box, "Tab")
        chromium.close()
    assert main(["marks", str(out)]) == 0
    [row] = csv.DictReader((out / "marks.csv").open(encoding="utf-8"))
    assert (row["Q1.T1"], row["total"], row["unread"]) == ("4", "6", "")
    shown = (out / "ann" / "01_small.html").read_text(encoding="utf-8")
    assert "Say why." in shown
    assert "data:image/png;base64" in shown
