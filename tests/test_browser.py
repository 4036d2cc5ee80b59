"""The notebooks as a person meets them, in JupyterLab in a real browser: the solved ones and the student's edition.

Runs where Playwright and a Chromium are installed. One notebook runs completely here; all of them do under nbval.
"""

import contextlib
import json
import re
import shutil

import nbformat
import pytest
from lab_server import BROWSER, jupyter_lab

from hw3utils.course.grading import session as grade
from hw3utils.course.notebooks.execute import NOTEBOOKS, find_notebooks
from hw3utils.course.notebooks.html import Page
from hw3utils.course.release import release

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
# What JupyterLab shows of itself with --expose-app-in-browser.
CURRENT = "window.jupyterapp.shell.currentWidget"
CODE = f"{CURRENT}.content.widgets.filter(cell => cell.model.type === 'code')"
COMMANDS = "window.jupyterapp.commands"
# The one that runs completely in the browser: it has sliders.
RUN_HERE = "01_forward_process"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on a copy of the notebooks; its address."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks")
    release(folder / "edition")
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # Every cell in the page, also those that are far from view: what a test counts does not depend on speed.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with jupyter_lab(folder) as address:
        yield address, folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(lab, browser):
    """JupyterLab, loaded once."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{lab[0]}/lab?reset")
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)", timeout=60_000)
    yield page
    page.close()


@contextlib.contextmanager
def opened(page, place, bars=None):
    """A notebook in JupyterLab, alone and ready to run; no error of the page itself is let pass."""
    broken = []
    listeners = {"pageerror": lambda error: broken.append(str(error))}
    if bars is not None:
        listeners["websocket"] = lambda socket: socket.on("framereceived", lambda frame: watch_bars(frame, bars))
    for event, listener in listeners.items():
        page.on(event, listener)
    page.evaluate(f"() => {COMMANDS}.execute('docmanager:open', {{path: '{place}'}}).then(() => null)")
    page.wait_for_function(f"{CURRENT}.context && {CURRENT}.context.path === '{place}'", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(f"{CURRENT}.sessionContext.kernelDisplayStatus === 'idle'", timeout=60_000)
    yield page
    page.evaluate(f"() => {CURRENT}.sessionContext.shutdown()")
    page.evaluate(f"() => {CURRENT}.dispose()")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert broken == []


def run_all(page):
    """Run All, until every cell has run or one has failed."""
    # Not awaited here: the promise would hold up the browser's answer for minutes.
    page.evaluate(f"() => {{ {COMMANDS}.execute('notebook:run-all-cells') }}")
    ran = f"{CODE}.every(cell => cell.model.executionCount)"
    failed = f"{CODE}.some(cell => cell.model.outputs.toJSON().some(output => output.ename))"
    idle = f"{CURRENT}.sessionContext.kernelDisplayStatus === 'idle'"
    page.wait_for_function(f"{idle} && ({ran} || {failed})", timeout=900_000, polling=1000)


def code_cells(path):
    """The code cells of a notebook that ran, none with an error or a word on stderr."""
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    return code


def test_run_all_in_jupyterlab(lab, page, tmp_path):
    _, folder = lab
    with opened(page, f"notebooks/{RUN_HERE}.ipynb"):
        page.evaluate(f"() => {{ {COMMANDS}.execute('notebook:clear-all-cell-outputs') }}")
        page.wait_for_function(f"!{CODE}.some(cell => cell.model.executionCount)", timeout=60_000)
        run_all(page)
        page.evaluate(f"() => {CURRENT}.context.save()")
        assert len(code_cells(folder / "notebooks" / f"{RUN_HERE}.ipynb")) > 10
        check_the_page(page, tmp_path / f"{RUN_HERE}.png")


TRAINING = """import torch
from hw3utils.learning.networks import ScoreMLP
from hw3utils.learning.objectives import DenoisingObjective
from hw3utils.learning.training import TrainConfig, fit, seeded

points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
config = TrainConfig(steps=3000, lr=1e-3, batch_size=128)
curve = fit(seeded(ScoreMLP, 0), points, DenoisingObjective(1.0), config, desc="training")"""


def test_a_training_shows_a_bar_that_moves_and_goes(lab, page):
    _, folder = lab
    path, bars = folder / "bars.ipynb", {}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAINING)], metadata=kernel), path)
    with opened(page, path.name, bars):
        run_all(page)
        page.evaluate(f"() => {CURRENT}.context.save()")
        code_cells(path)
        assert max(map(len, bars.values())) > 2
        assert page.locator(".jp-OutputArea-output [role=progressbar]").count() == 0


@pytest.mark.parametrize("name", [path.name for path in find_notebooks() if path.stem != RUN_HERE])
def test_the_stored_page_of_the_others(name, page, tmp_path):
    with opened(page, f"notebooks/{name}"):
        check_the_page(page, tmp_path / f"{name}.png")


@pytest.mark.parametrize("name", [path.name for path in find_notebooks()])
def test_the_student_edition_opens_with_its_help_folded(name, lab, page):
    text = (lab[1] / "edition" / name).read_text(encoding="utf-8")
    wanted = text.count("<details")
    assert wanted > 10
    with opened(page, f"edition/{name}"):
        page.wait_for_function(f"({FOLDS})().closed === {wanted}", timeout=60_000)
        assert page.evaluate(FOLDS) == {"closed": wanted, "open": 0, "answers": 0}


SOLUTION = """def make_schedule(T, beta_1, beta_T):
    beta = torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
    beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta])
    return beta, 1 - beta, torch.cumprod(1 - beta, dim=0)"""
FIRST_ERROR = f"{CODE}.findIndex(cell => cell.model.outputs.toJSON().some(output => output.ename))"


def test_a_student_solves_the_first_exercise(page):
    with opened(page, "edition/01_forward_process.ipynb"):
        run_all(page)
        place = page.evaluate(FIRST_ERROR)
        error = page.evaluate(f"{CODE}[{place}].model.outputs.toJSON()[0]")
        assert (error["ename"], error["evalue"]) == ("NotImplementedError", "write this part first")
        stub = f"{CODE}[{place - 1}]"
        assert "raise NotImplementedError" in page.evaluate(f"{stub}.model.sharedModel.getSource()")
        page.evaluate(f"() => {{ {CURRENT}.content.activeCellIndex = {CURRENT}.content.widgets.indexOf({stub}) }}")
        page.evaluate(f"() => {{ {CURRENT}.content.mode = 'edit'; {stub}.editor.focus() }}")
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(SOLUTION)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        shown = f"{CODE}[{place}].model.outputs.toJSON().map(output => output.text || '').join('')"
        page.wait_for_function(f"({shown}).startsWith('PASS  Q1.P1')", timeout=60_000)


FOLDS = """() => {
    const folds = [...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown details')];
    return {
        closed: folds.filter(fold => !fold.open).length,
        open: folds.filter(fold => fold.open).length,
        answers: folds.filter(fold => fold.textContent.includes(': the answer')).length,
    };
}"""


def watch_bars(frame, bars):
    """Note the values that the kernel sends to each widget: a progress bar that moves gets several."""
    frame = frame if isinstance(frame, bytes) else frame.encode()
    widget, value = (re.search(rb'"%s": ?"?([\w.]+)' % name, frame) for name in (b"comm_id", b"value"))
    if b"comm_msg" in frame and widget and value:
        bars.setdefault(widget[1], set()).add(value[1])


# There are formulas, and no more than half a second ago.
TYPESET = """() => {
    const before = window.formulas;
    window.formulas = document.querySelectorAll('.jp-Notebook mjx-container').length;
    return before > 0 && before === window.formulas;
}"""
SEEN = """async () => {
    const notebook = document.querySelector('.jp-WindowedPanel-outer') || document.querySelector('.jp-Notebook');
    const all = (what) => [...document.querySelectorAll('.jp-Notebook ' + what)];
    const seen = {formulas: 0, wrong: 0, headings: 0, bars: 0, over: []};
    for (let y = 0; y < notebook.scrollHeight + 800; y += 800) {
        notebook.scrollTop = y;
        // Two frames: what comes into view is drawn.
        await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        seen.formulas = Math.max(seen.formulas, all('mjx-container').length);
        seen.headings = Math.max(seen.headings, all('.jp-RenderedMarkdown h2').length);
        seen.wrong += all('mjx-merror, .MathJax_Error').length;
        seen.bars = Math.max(seen.bars, all('.jp-OutputArea-output [role=progressbar]').length);
        for (const image of all('.jp-OutputArea-output img')) {
            const room = image.closest('.jp-OutputArea').getBoundingClientRect().width;
            seen.over.push(image.getBoundingClientRect().width - room);
        }
    }
    return seen;
}"""


def check_the_page(page, picture):
    """Formulas that render, figures that fit, headings for the table of contents, progress bars that are gone."""
    page.evaluate("() => { window.formulas = 0 }")
    page.wait_for_function(TYPESET, timeout=60_000, polling=500)
    seen = page.evaluate(SEEN)
    page.screenshot(path=picture)
    assert seen["formulas"] > 0
    assert seen["wrong"] == 0
    assert seen["headings"] > 0
    assert seen["bars"] == 0
    assert len(seen["over"]) > 0
    assert max(seen["over"]) < 1


# ------------------------------------------------------------------------------------------------- pages of HTML


def open_alone(browser, page, picture):
    """Open a file with the network cut; what it asked for besides itself, what it shows, and its formulas' sizes."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    tab = context.new_page()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.screenshot(path=picture)
    text = tab.evaluate(
        "() => { document.querySelectorAll('pre, code').forEach(tag => tag.remove()); return document.body.innerText; }"
    )
    sizes = tab.evaluate("() => [...document.querySelectorAll('math')].map(tag => tag.getBoundingClientRect().width)")
    context.close()
    return [url for url in asked if url != page.as_uri() and not url.startswith("data:")], text, sizes


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_the_page_of_a_notebook_needs_no_network(path, browser, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    html, _ = Page().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    page = tmp_path / "page.html"
    page.write_text(html, encoding="utf-8")
    asked, text, sizes = open_alone(browser, page, tmp_path / "page.png")
    assert asked == []
    assert re.findall(r"[\\$]", text) == []
    assert len(sizes) > 10
    assert min(sizes) > 1


def test_a_feedback_page_needs_no_network(browser, tmp_path, monkeypatch):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    new = nbformat.v4
    mark = {"schema_version": 3, "grade": True, "locked": False, "solution": True, "task": False, "points": 5}
    mark |= {"grade_id": "Q1-T1-answer", "cell_type": "markdown"}
    cells = [
        new.new_markdown_cell(r"By $\mathbb E_q[x]$ and $$\frac{1}{2} \tag{1}$$"),
        new.new_code_cell("from IPython.display import HTML\nHTML('<img src=\"https://example.org/x.png\">')"),
        new.new_code_cell("from IPython.display import Latex\nLatex(r'$\\bar\\alpha$')"),
        new.new_markdown_cell("Because.", metadata={"nbgrader": mark}),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    source = tmp_path / "source" / "01_small.ipynb"
    source.parent.mkdir()
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), source)
    monkeypatch.setattr(grade, "find_notebooks", lambda names=(): [source])
    release(tmp_path / "alice", [str(source)])
    grade.grade([tmp_path / "alice"], tmp_path / "grades", full=True)
    page = tmp_path / "grades" / "alice" / "01_small.html"
    asked, text, sizes = open_alone(browser, page, tmp_path / "page.png")
    assert asked == []
    assert re.findall(r"[\\$]", text) == []
    assert len(sizes) == 3
    assert min(sizes) > 1
    assert "(1)" in text
