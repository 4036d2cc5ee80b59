"""The notebooks as a person meets them: JupyterLab in a real browser, Run All from a fresh kernel.

Runs where Playwright and a Chromium are installed; the minutes of the notebooks themselves come on top.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from hw3utils.runner import NOTEBOOKS, find_notebooks

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on a copy of the notebooks; its address."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks")
    log = (folder / "log").open("w")
    environment = {name: value for name, value in os.environ.items() if name not in ("HW3_QUIET", "HW3_FIGURES")}
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data")}
    options = [
        "--no-browser",
        "--port=0",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=1",
    ]
    options += [
        "--expose-app-in-browser",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], cwd=folder, stdout=log, stderr=log, env=environment
    )
    try:
        for _ in range(120):
            found = re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab", (folder / "log").read_text())
            if found or server.poll() is not None:
                break
            server_wait(server)
        assert found, (folder / "log").read_text()[-2000:]
        yield f"http://127.0.0.1:{found[1]}", folder / "notebooks"
    finally:
        server.terminate()
        server.wait(20)


def server_wait(server):
    """Half a second, or less if the server ends."""
    try:
        server.wait(0.5)
    except subprocess.TimeoutExpired:
        pass


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def sessions(address):
    with urllib.request.urlopen(f"{address}/api/sessions") as answer:
        return json.load(answer)


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_run_all_in_jupyterlab(path, lab, browser, tmp_path):
    address, folder = lab
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    broken = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(f"{address}/lab/tree/notebooks/{path.name}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function("document.querySelector('.jp-Notebook-ExecutionIndicator')", timeout=60_000)
    run = "window.jupyterapp.commands.execute('{}')"
    page.evaluate(run.format("notebook:clear-all-cell-outputs"))
    # Resolves when the last cell has run.
    page.set_default_timeout(900_000)
    assert page.evaluate(run.format("notebook:run-all-cells")) is not False
    wait_until_idle(page, address)
    page.evaluate(run.format("docmanager:save"))
    cells = json.loads((folder / path.name).read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    check_the_page(page, tmp_path / f"{path.stem}.png")
    assert broken == []
    page.close()


def wait_until_idle(page, address):
    """Until the kernel has nothing left to do."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        if all(session["kernel"]["execution_state"] == "idle" for session in sessions(address)):
            return
        page.wait_for_timeout(500)
    raise AssertionError("the notebook has not come to its end in 15 minutes")


def check_the_page(page, picture):
    """Formulas that render, figures that fit and can be heard, headings for the table of contents, bars that are gone."""
    page.wait_for_timeout(1000)
    seen = page.evaluate(
        """async () => {
            const notebook = document.querySelector('.jp-WindowedPanel-outer') || document.querySelector('.jp-Notebook');
            const sizes = [], alts = [];
            let formulas = 0, wrong = 0, headings = 0, bars = 0;
            const count = () => {
                formulas = Math.max(formulas, document.querySelectorAll('.jp-Notebook mjx-container').length);
                wrong += document.querySelectorAll('.jp-Notebook mjx-merror, .jp-Notebook .MathJax_Error').length;
                headings = Math.max(headings, document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown h2').length);
                bars = Math.max(bars, [...document.querySelectorAll('.jp-OutputArea-output .widget-hprogress, .jp-OutputArea-output .jupyter-widget-hprogress')].filter(e => e.offsetParent).length);
                for (const image of document.querySelectorAll('.jp-OutputArea-output img')) {
                    const room = image.closest('.jp-OutputArea').getBoundingClientRect().width;
                    sizes.push(image.getBoundingClientRect().width - room);
                    alts.push(image.alt);
                }
            };
            for (let y = 0; y < notebook.scrollHeight; y += 800) {
                notebook.scrollTop = y;
                await new Promise(done => setTimeout(done, 150));
                count();
            }
            count();
            return {formulas, wrong, headings, bars, sizes, alts};
        }"""
    )
    page.screenshot(path=picture)
    assert seen["formulas"] > 0
    assert seen["wrong"] == 0
    assert seen["headings"] > 0
    assert seen["bars"] == 0
    assert len(seen["sizes"]) > 0
    assert max(seen["sizes"]) < 1
    assert all(seen["alts"])
