"""Whose work is it? What a person needs to judge that: calls of the package itself, and solutions that are alike."""

import ast
import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nbformat import NotebookNode

from hw3utils.course.notebooks.cells import marked_cells
from hw3utils.course.notebooks.execute import find_notebooks, read_notebook

# A solution with fewer nodes in its syntax tree says nothing about who wrote it.
LEAST = 30


def solutions(notebook: NotebookNode) -> dict[str, str]:
    """The solution cells of a notebook by nbgrader's name."""
    return {
        name: cell.source
        for name, cell in marked_cells(notebook).items()
        if cell.cell_type == "code" and cell.metadata["nbgrader"].get("solution")
    }


def borrowed(notebook: NotebookNode, file: str) -> list[str]:
    """Where a solution calls a function of the package that the reference solution of its cell does not call."""
    reference = _reference(file)
    imports = _imports("\n".join(_parsing(cell.source) for cell in notebook.cells if cell.cell_type == "code"))
    found = []
    for name, source in solutions(notebook).items():
        more = _called(source, imports) - reference.get(name, frozenset())
        if more:
            found.append(f"{name} calls {', '.join(sorted(more))}: is it the student's own work?")
    return found


@lru_cache
def _reference(file: str) -> dict[str, frozenset[str]]:
    """What the reference solutions of a notebook call of the package."""
    paths = [path for path in find_notebooks() if path.name == file]
    if not paths:
        return {}
    notebook = read_notebook(paths[0])
    imports = _imports("\n".join(_parsing(cell.source) for cell in notebook.cells if cell.cell_type == "code"))
    return {name: frozenset(_called(source, imports)) for name, source in solutions(notebook).items()}


def _parsing(source: str) -> str:
    """A cell's text, or nothing where it is no Python by itself."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return source


def _imports(source: str) -> dict[str, str]:
    """The names that a notebook imports of the package -> what they stand for."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hw3utils":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hw3utils":
                    found[alias.asname or "hw3utils"] = alias.name if alias.asname else "hw3utils"
    return found


def _called(source: str, imports: Mapping[str, str]) -> set[str]:
    """The package's functions that a solution calls, or takes under another name."""
    found = set()
    source = _parsing(source)
    imports = dict(imports) | _imports(source)
    for node in ast.walk(ast.parse(source)):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(inner, ast.Name) and inner.id in imports:
            whole = ".".join([imports[inner.id], *reversed(parts)])
            found.add(whole)
    # Of samplers.sample_ddpm only the whole counts, not the module it is taken from.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def shape(source: str) -> tuple[str, int] | None:
    """The syntax tree of a solution without its names, numbers of names in order of appearance; and its size."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names: dict[str, str] = {}

    def plain(name: str) -> str:
        return names.setdefault(name, f"n{len(names)}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = plain(node.id)
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = plain(node.arg), None
        elif isinstance(node, ast.FunctionDef):
            node.name, node.returns = plain(node.name), None
            if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), sum(1 for _ in ast.walk(tree))


def alike(classes: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Pairs of students whose solutions have the same syntax tree up to names.

    Args:
        classes: the solutions of each student by the cell's name; those that are the stub or the reference count too.

    Returns:
        For each pair the cells that are alike and how many both solved, most alike first.
    """
    shapes = {
        student: {name: made for name, source in own.items() if (made := shape(source)) and made[1] >= LEAST}
        for student, own in classes.items()
    }
    found = []
    for one, two in itertools.combinations(sorted(shapes), 2):
        both = sorted(shapes[one].keys() & shapes[two].keys())
        same = [name for name in both if shapes[one][name] == shapes[two][name]]
        if same:
            found.append({"students": [one, two], "alike": same, "both": len(both)})
    return sorted(found, key=lambda pair: (-len(pair["alike"]), pair["students"]))
