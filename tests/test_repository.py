"""What holds for the repository as a whole: its top level, its two commands, its notebooks."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hw3utils.__main__ import command_parser
from hw3utils.course.assignment import ITEMS, SECTIONS
from hw3utils.course.report import MIMETYPE

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_top_level():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git clone")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    wanted = {"README.md", "LICENSE", "requirements.txt", "notebooks", "hw3utils", "figures", "tests"}
    assert {name for name in top if not name.startswith(".")} == wanted


def test_readme_holds_the_two_commands_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text()
    run, test = (re.search(rf"<!-- {mark} -->\n```sh\n(.+)\n```\n<!-- end -->", readme) for mark in ("run", "test"))
    assert run[1].endswith("hw3 run")
    assert test[1].endswith("pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_pins_are_exact():
    for name in ("requirements.txt", "tests/requirements.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+|-e \./hw3utils|-r \.\./requirements\.txt", line) for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_every_cell_has_run_without_error_or_red(self, path):
        for cell in cells(path, "code"):
            assert cell["execution_count"] is not None
            for output in cell["outputs"]:
                assert output["output_type"] != "error"
                assert output.get("name") != "stderr"

    def test_cells_are_short_and_none_is_skipped(self, path):
        for cell in cells(path, "code"):
            source = "".join(cell["source"])
            assert len(source.splitlines()) <= 25
            assert "NBVAL_SKIP" not in source
            assert not re.search(r"^\s*!|%pip|subprocess|os\.system", source, re.MULTILINE)

    def test_only_timings_are_left_out_of_the_comparison(self, path):
        ignored = ["".join(c["source"]) for c in cells(path, "code") if "NBVAL_IGNORE_OUTPUT" in "".join(c["source"])]
        assert all(re.search("timeit|time_samplers|perf_counter", source) for source in ignored)

    def test_its_items_have_a_heading_with_their_points_and_a_pass(self, path):
        text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
        outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
        [table] = [output["data"][MIMETYPE] for output in outputs if MIMETYPE in output.get("data", {})]
        known = ITEMS | SECTIONS
        at_home = {name for name, item in known.items() if path.name[:2] in item.homes}
        assert set(table) == at_home
        for name in at_home:
            assert re.search(rf"^## .*{re.escape(name)}\b", text, re.MULTILINE), name
            assert table[name]["points"] == known[name].points
            without = ("no exercise",) if table[name]["points"] == 0 else ()
            assert table[name]["state"] in ("passed", "answered", *without)

    def test_links_between_notebooks_lead_somewhere(self, path):
        text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
        for target in re.findall(r"\]\(([\w.]+\.ipynb)\)", text):
            assert (path.parent / target).exists(), target

    def test_figures_have_alternative_text_and_lie_in_the_folder(self, path):
        code = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
        names = re.findall(r'plots\.figure\(\s*"(\w+)"', code)
        assert names
        for name in names:
            assert (ROOT / "figures" / f"{name}.png").exists(), name


# ------------------------------------------------------------------------------------------------------------- guides

GUIDES = [
    ROOT / "README.md",
    ROOT / "notebooks" / "README.md",
    *(ROOT / "hw3utils" / folder / "README.md" for folder in (".", "course", "sprites", "bench")),
]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.parent.name)
def test_links_and_pictures_of_the_guides_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.parent.name)
def test_commands_of_the_guides_are_known_with_their_options(path):
    """Every `hw3` command line in a block of code is parsed by the program itself."""
    parser = command_parser()
    lines = [
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
    ]
    for line in lines:
        words = shlex.split(line)
        if words and Path(words[0]).name == "hw3":
            parser.parse_args(words[1:])
