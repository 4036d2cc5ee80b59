"""Makes the pictures of the guides in figures/, in Chromium: `python tests/guide_pictures.py`, some minutes."""

import contextlib
import sys
import tempfile
from pathlib import Path

import nbformat
from lab_server import BROWSER, jupyter_lab
from playwright.sync_api import sync_playwright

from hw3utils.__main__ import main
from hw3utils.course.grading.session import grade
from hw3utils.course.notebooks.cells import ASSIGNMENT, Course
from hw3utils.course.records import gradebook

ROOT = Path(__file__).resolve().parent.parent
ANSWER = "The variances add up, because $z_{t-1}$ depends on $\\epsilon_1, ..., \\epsilon_{t-1}$ only."


def screenshot(address, path, *, wait=None, scroll=None):
    """Write a PNG of a page, 1000 pixels wide."""
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.goto(address)
        if wait:
            page.wait_for_selector(wait)
            page.wait_for_load_state("networkidle")
        if scroll:
            page.locator(scroll).scroll_into_view_if_needed()
        page.screenshot(path=path)
        browser.close()


def training_page(folder):
    """The page of a short training."""
    size = ["--steps", "900", "--batch-size", "32", "--checkpoint-every", "300", "--lr", "0.001"]
    with contextlib.chdir(folder):
        main(["train", *size, "--out", "out/mine"])
    screenshot((folder / "out/mine/index.html").as_uri(), ROOT / "figures" / "guide_training.png")


def formgrader_page(folder):
    """An answer in the formgrader, with the marking scheme above it."""
    main(["release", "--out", str(folder / "edition")])
    handed_in, out = folder / "alice", folder / "grades"
    handed_in.mkdir()
    notebook = nbformat.read(folder / "edition" / "01_forward_process.ipynb", as_version=4)
    [answer] = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "Q1-T1-answer"]
    answer.source = ANSWER
    nbformat.write(notebook, handed_in / "01_forward_process.ipynb")
    (handed_in / "student_number.txt").write_text("810100001")
    grade([handed_in], out)
    with gradebook.opened(Course(out)) as book:
        found = book.find_submission(ASSIGNMENT, "alice").notebooks
        [place] = [f"formgrader/submissions/{n.id}" for n in found if n.name.startswith("01")]
    with jupyter_lab(out) as address:
        path = ROOT / "figures" / "guide_formgrader.png"
        screenshot(f"{address}/{place}", path, wait="#Q1-T1-answer", scroll="#Q1-T1-answer")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for make in (formgrader_page, training_page):
            if make.__name__ in (sys.argv[1:] or (make.__name__,)):
                (Path(scratch) / make.__name__).mkdir()
                make(Path(scratch) / make.__name__)
