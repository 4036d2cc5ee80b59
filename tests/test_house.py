"""The house: what lies where, which way imports run, and how long a file, a function and a signature may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hw3utils"

GROUND = ("arguments", "devices", "files", "progress")
# In the order of the notebooks; each may import those before it.
MATHEMATICS = (
    *("schedules", "noise", "diffusion", "bound", "mixtures", "losses"),
    *("time_grid", "samplers", "inpainting", "langevin", "divergences", "flows", "velocities"),
)
# The storeys above, from below: what stands on one storey may see each other and all that is lower.
STOREYS = (("learning", "sprites"), ("plots", "fid"), ("watch",), ("course", "bench"), ("commands",), ("__main__",))
# Looked up when asked for: no import when the package is imported.
ROOF = "__init__"


def modules():
    """The dotted name below hw3utils -> the file, of every module; a folder goes by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(tree, names):
    """What of the package a module imports, also within functions: dotted names below hw3utils."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hw3utils.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import does not show where it goes"
            if node.module.split(".")[0] == "hw3utils":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {name.removeprefix("hw3utils.") for name in found}
    # The longest part of a name that is a module: names of functions are cut off.
    return {next((n for n in (name, name.rpartition(".")[0]) if n in names), ROOF) for name in found}


def height(name):
    """How high a module stands: each file of the mathematics a step, each storey a step."""
    top = name.split(".")[0]
    if top in GROUND:
        return 0
    if top in MATHEMATICS:
        return 1 + MATHEMATICS.index(top)
    for storey, rooms in enumerate(STOREYS):
        if top in rooms:
            return 100 + storey
    raise AssertionError(f"hw3utils/{top} has no place in the house")


def upward(trees):
    """The arrows that run up, or along the mathematics the wrong way."""
    return [
        f"{name} imports {other}"
        for name, tree in trees.items()
        for other in imports(tree, trees)
        if ROOF not in (name, other)
        and (height(other) > height(name) or (height(other) == height(name) != 0 and height(name) < 100))
        and other != name
    ]


def test_imports_run_downwards():
    assert upward(TREES) == []


def test_an_arrow_that_runs_up_is_seen():
    up = {"schedules": "from hw3utils.samplers import sample_ddim", "files": "import hw3utils.schedules"}
    up |= {
        "fid": "def f():\n    from hw3utils.course.report import Report",
        "learning.ema": "from hw3utils import plots",
    }
    changed = TREES | {name: ast.parse(text) for name, text in up.items()}
    assert len(upward(changed)) == 4


def test_no_two_modules_import_each_other():
    arrows = {name: imports(tree, TREES) - {name, ROOF} for name, tree in TREES.items() if name != ROOF}
    # Those that import nothing that is left fall away, again and again; what stays goes round in a circle.
    while free := [name for name, others in arrows.items() if not others & arrows.keys()]:
        for name in free:
            del arrows[name]
    # A folder's first file opens the door to what lies in it.
    assert {name for name in arrows if "." in name} == set()


def test_the_rooms_are_those_of_the_house():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES.values()}
    expected = {*GROUND, *MATHEMATICS, *(room for storey in STOREYS for room in storey), ROOF}
    assert rooms == expected
    for folder, files in {
        "learning": "networks objectives ema training run_files weights recipes classifier features exchange",
        "sprites": "grammar drawing pictures loading sets",
        "bench": "parts peers timing fid_table flow_table",
        "commands": "run check submit train sample fid data bench release grade marks",
    }.items():
        assert {path.stem for path in (PACKAGE / folder).glob("*.py")} == {*files.split(), "__init__"}


@pytest.mark.parametrize("name", MODULES)
def test_no_file_function_or_signature_is_too_long(name):
    text, tree = MODULES[name].read_text(encoding="utf-8"), TREES[name]
    assert len(text.splitlines()) <= 450
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name
            given = node.args
            assert len(given.posonlyargs + given.args + given.kwonlyargs) <= 10, node.name


@pytest.mark.parametrize("name", MODULES)
def test_the_first_line_says_what_lives_there(name):
    first = (ast.get_docstring(TREES[name]) or "").split("\n")[0]
    assert len(first.split()) >= 4
    assert first.endswith(".")


def names_used(tree):
    """Every dotted name of a module that stands as such in its code."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize(
    "word", ["tempfile.mkstemp", "os.replace", "hashlib.file_digest", "pooch.retrieve", "requests.get", "urlopen"]
)
def test_there_is_one_way_to_write_to_hash_and_to_fetch(word):
    homes = [name for name, tree in TREES.items() if any(word in used for used in names_used(tree))]
    assert set(homes) <= {"files"}


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from hw3utils.__main__ import COMMANDS, command_parser; command_parser().format_help(); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'nbformat'} & set(sys.modules); assert not heavy, heavy; "
        "print(len(COMMANDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "11\n"
