"""nbgrader's formgrader in a real browser: an answer is marked, and no script of a student runs there."""

import base64
import csv
import io

import nbformat
import pytest
from course_helpers import hand_in, small_homework
from lab_server import BROWSER, jupyter_lab
from nbformat.v4 import new_code_cell, new_markdown_cell
from PIL import Image

from hw3utils.__main__ import main
from hw3utils.course.grading import session as grade
from hw3utils.course.notebooks.cells import ASSIGNMENT, Course, marked_cells
from hw3utils.course.records import gradebook

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

RIGHT = "def double(x): return 2 * x"
# What an attack does in the page: with the grader's cookie it could as well give points.
RUN = "(top.attacked = top.attacked || []).push(`{}`)"
MARKDOWN = {
    "script": "<script>{}</script>",
    "onerror": '<img src=x onerror="{}">',
    "onerror without quotes": "<img src=y onerror={}>",
    "upper case": '<IMG SRC=z ONERROR="{}">',
    "svg onload": '<svg onload="{}"></svg>',
    "script in svg": "<svg><script>{}</script></svg>",
    "iframe srcdoc": "<iframe srcdoc='<script>{}</script>'></iframe>",
    "javascript frame": '<iframe src="javascript:{}"></iframe>',
    "object": '<object data="javascript:{}"></object>',
    "ontoggle": '<details open ontoggle="{}"><summary>a</summary>b</details>',
    "onfocus": '<input autofocus onfocus="{}">',
    "animation": '<style>@keyframes a {{}}</style><b style="animation: a 1s" onanimationstart="{}">x</b>',
    "video": '<video><source onerror="{}"></video>',
    "mathml": '<math><mtext><img src=w onerror="{}"></mtext></math>',
    "javascript link": '<a class="attack" href="javascript:{}">a link</a>',
    "link with entities": '<a class="attack" href="&#106;ava&Tab;script:{}">a link</a>',
    "markdown link": "[a markdown link](javascript:{})",
}
# In a cell of the student: HTML, SVG, Markdown, LaTeX and JavaScript as outputs, and texts that are no HTML.
OUTPUTS = """
from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display
run = "{run}"
display(HTML(f'<img src=x onerror="{{run.replace("NAME", "html output")}}">'))
display(SVG(data=f'<svg xmlns="http://www.w3.org/2000/svg" onload="{{run.replace("NAME", "svg output")}}"></svg>'))
display(Markdown(f'<img src=x onerror="{{run.replace("NAME", "markdown output")}}">'))
display(Latex(f'<img src=x onerror="{{run.replace("NAME", "latex output")}}">'))
display(Javascript(run.replace("NAME", "javascript output")))
display({{"text/html": f'<script>{{run.replace("NAME", "script output")}}</script>'}}, raw=True)
print(f'<img src=x onerror="{{run.replace("NAME", "stream")}}">')
raise ValueError(f'<img src=x onerror="{{run.replace("NAME", "traceback")}}">')
""".format(run=RUN.format("NAME"))
ELSEWHERE = (
    '<meta http-equiv="refresh" content="0; url=https://attack.invalid/meta"><base href="https://attack.invalid/">'
)
ELSEWHERE += (
    '<link rel="stylesheet" href="https://attack.invalid/a.css"><style>@import "https://attack.invalid/b.css"</style>'
)
# An answer with a formula, a table and a picture, as many have them.
ANSWER_WITH_ALL = "Since $\\frac{1}{2} < 1$.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n![](attachment:photo.png)"


def photo():
    """A photo of 37 by 20 pixels, as an attachment."""
    buffer = io.BytesIO()
    Image.new("RGB", (37, 20), "teal").save(buffer, "PNG")
    return {"photo.png": {"image/png": base64.b64encode(buffer.getvalue()).decode()}}


def markdown_attacks():
    """A cell for each attack in Markdown."""
    return [new_markdown_cell(form.format(RUN.format(name))) for name, form in MARKDOWN.items()]


def other_attacks():
    """Outputs of code, attachments and their names."""
    name = f'x" onerror="{RUN.format("attachment name")}'
    kinds = {"text/html": f"<script>{RUN.format('attachment')}</script>"}
    kinds["image/png"] = f'" onerror="{RUN.format("attachment data")}'
    pictures = {"a": dict(kinds), name: kinds}
    return [new_markdown_cell("![](attachment:a) ![](attachment:x)", attachments=pictures), new_code_cell(OUTPUTS)]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A graded course of a student and an attacker; its folder, and the submissions' pages in formgrader."""
    folder = tmp_path_factory.mktemp("homework")
    with small_homework(folder) as edition:
        ann = hand_in(folder / "in" / "ann", edition, RIGHT, ANSWER_WITH_ALL, "4711")
        eve = hand_in(folder / "in" / "eve <img src=x onerror=alert(1)>", edition, RIGHT, ANSWER_WITH_ALL, "4712")
        for place in (ann, eve):
            notebook = nbformat.read(place / edition.name, as_version=4)
            notebook.cells[2].attachments = photo()
            if place == eve:
                notebook.cells += [*markdown_attacks(), *other_attacks(), new_markdown_cell(ELSEWHERE)]
                notebook.metadata.title = f"<script>{RUN.format('title')}</script>"
            nbformat.write(notebook, place / edition.name)
        out = folder / "out"
        grade.grade([ann, eve], out, timeout=60, seed=3)
    pages = {}
    with gradebook.opened(Course(out)) as book:
        for submission in book.assignment_submissions(ASSIGNMENT):
            pages[submission.student.id] = f"formgrader/submissions/{submission.notebooks[0].id}"
    with jupyter_lab(out) as address:
        yield out, {student[:3]: f"{address}/{page}" for student, page in pages.items()}


@pytest.fixture
def page(course):
    """A page in Chromium; `page.foreign` has what it asks other hosts for."""
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        opened = chromium.new_page()
        opened.foreign = []
        opened.on(
            "request", lambda request: opened.foreign.append(request.url) if "attack.invalid" in request.url else None
        )
        yield opened
        chromium.close()


def show(page, address):
    """Open a page, click every link that an attacker made, and open every fold; the attacks that ran."""
    page.goto(address)
    page.wait_for_selector("#Q1-T1-answer")
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    for link in page.get_by_text("link", exact=False).all():
        link.dispatch_event("click")
    page.wait_for_function("document.readyState === 'complete' && [...document.images].every(image => image.complete)")
    return set(page.evaluate("window.attacked || []"))


def test_an_answer_is_marked_and_commented_in_the_formgrader(course, page):
    out, pages = course
    assert show(page, pages["ann"]) == set()
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [37]
    for box, text, kind in (("#Q1-T1-answer", "4", "grade"), ("textarea.comment >> nth=-1", "Say why.", "comment")):
        with page.expect_response(lambda r, kind=kind: f"api/{kind}/" in r.url and r.request.method == "PUT"):
            page.fill(box, text)
            page.press(box, "Tab")
    main(["marks", str(out)])
    [row] = [row for row in csv.DictReader((out / "marks.csv").open(encoding="utf-8-sig")) if row["student"] == "ann"]
    assert (row["Q1.T1"], row["total"], row["unread"]) == ("4", "6", "")
    shown = (out / "ann" / "01_small.html").read_text(encoding="utf-8")
    assert "Say why." in shown
    assert "data:image/png;base64" in shown


def test_no_attack_runs_in_the_formgrader(course, page):
    _, pages = course
    assert show(page, pages["eve"]) == set()
    assert page.foreign == []
    assert page.url.rstrip("/") == pages["eve"]
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)")[:1] == [37]
    assert page.locator("table td").all_inner_texts()[:2] == ["1", "2"]
    # A formula reaches MathJax as it was written.
    assert "\\frac{1}{2} < 1" in page.inner_text("body") or page.locator(".MathJax, mjx-container").count() > 0
    # Each attack is still to be read as text, or was left out by name.
    assert page.inner_text("body").count("attacked") >= 10


def test_no_attack_runs_in_the_pages_of_the_report(course, page):
    out, _ = course
    [path] = out.glob("eve*/01_small.html")
    page.goto(path.as_uri())
    page.wait_for_function("document.readyState === 'complete'")
    assert page.evaluate("window.attacked || []") == []
    assert page.foreign == []
    assert page.evaluate("document.images.length") > 0


def test_the_attacks_do_run_where_nothing_is_cleaned(course, page):
    """The same cells put into the folder that the formgrader shows: the tests above would see them."""
    out, pages = course
    [path] = out.glob(f"autograded/eve*/{ASSIGNMENT}/01_small.ipynb")
    cleaned = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [*marked_cells(notebook).values(), *markdown_attacks()]
    path.chmod(0o644)
    try:
        nbformat.write(notebook, path)
        ran = show(page, pages["eve"])
    finally:
        path.write_bytes(cleaned)
    assert len(ran) >= 10, ran
