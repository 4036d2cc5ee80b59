"""Hints for the grader: solutions that call the package, solutions that are alike, shell commands."""

import ast
import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from nbformat import NotebookNode

from hw3utils.course.notebooks.cells import marked_cells, syntax_tree
from hw3utils.course.notebooks.execute import find_notebooks, read_notebook

# Solutions with fewer nodes in their syntax tree are alike by chance.
MIN_NODES = 30
# By these a solution may fetch any function by its name.
_DYNAMIC = {"getattr", "importlib", "__import__", "eval", "exec", "vars", "globals"}
_SHELL = re.compile(
    r"^\s*(?:!|%(?:pip|conda|mamba|uv|cd|sx|system)\b|%%(?:bash|sh|script|cmd|system|sx)\b)[^\n]*", re.M
)


def solutions(notebook: NotebookNode) -> dict[str, str]:
    """The solution cells of a notebook by nbgrader's name."""
    return {
        name: cell.source
        for name, cell in marked_cells(notebook).items()
        if cell.cell_type == "code" and cell.metadata["nbgrader"].get("solution")
    }


def borrowed(notebook: NotebookNode, file: str) -> list[str]:
    """Solutions that call functions of the package that the reference does not call, or fetch functions by name."""
    reference = _reference(file)
    imports = _imports(_trees(notebook))
    found = []
    for name, source in solutions(notebook).items():
        more = _called(source, imports) - reference.get(name, frozenset())
        if more:
            found.append(f"{name} calls {', '.join(sorted(more))}: is it the student's own work?")
        nodes = ast.walk(syntax_tree(source) or ast.Module([], []))
        if dynamic := {node.id for node in nodes if isinstance(node, ast.Name)} & _DYNAMIC:
            found.append(f"{name} uses {', '.join(sorted(dynamic))}: which function does it fetch?")
    return found


def shell_commands(notebook: NotebookNode) -> list[str]:
    """The shell and install commands in a notebook's code; grading does not run them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [" ".join(found.split())[:100] for source in sources for found in _SHELL.findall(source)]


@lru_cache
def _reference(file: str) -> dict[str, frozenset[str]]:
    """The functions of the package that the reference solutions of a notebook call."""
    paths = [path for path in find_notebooks() if path.name == file]
    if not paths:
        return {}
    notebook = read_notebook(paths[0])
    imports = _imports(_trees(notebook))
    return {name: frozenset(_called(source, imports)) for name, source in solutions(notebook).items()}


def _trees(notebook: NotebookNode) -> list[ast.Module]:
    """The syntax trees of all code cells that are valid Python."""
    sources = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    return [tree for tree in map(syntax_tree, sources) if tree]


def _imports(trees: Iterable[ast.Module]) -> dict[str, str]:
    """The names that a notebook imports from the package -> their full names."""
    found: dict[str, str] = {}
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hw3utils":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hw3utils":
                    found[alias.asname or "hw3utils"] = alias.name if alias.asname else "hw3utils"
    return found


def _called(source: str, imports: Mapping[str, str]) -> set[str]:
    """The package's functions that a solution calls or assigns."""
    found = set()
    tree = syntax_tree(source) or ast.Module([], [])
    imports = dict(imports) | _imports([tree])
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(inner, ast.Name) and inner.id in imports:
            found.add(".".join([imports[inner.id], *reversed(parts)]))
    # samplers.sample_ddpm counts, not also the module.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def shape(source: str) -> tuple[str, int] | None:
    """The syntax tree of a solution with names numbered in order of appearance, and its number of nodes."""
    tree = syntax_tree(source)
    if tree is None:
        return None
    names: dict[str, str] = {}

    def numbered(name: str) -> str:
        return names.setdefault(name, f"n{len(names)}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = numbered(node.id)
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = numbered(node.arg), None
        elif isinstance(node, ast.FunctionDef):
            node.name, node.returns = numbered(node.name), None
            if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree), sum(1 for _ in ast.walk(tree))


def alike(classes: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Pairs of students whose solutions have the same syntax tree up to names.

    Args:
        classes: the solutions of each student by the cell's name.

    Returns:
        For each pair the cells that are alike, and how many both solved; most alike first.
    """
    shapes = {
        student: {name: tree for name, source in own.items() if (tree := shape(source)) and tree[1] >= MIN_NODES}
        for student, own in classes.items()
    }
    found = []
    for one, two in itertools.combinations(sorted(shapes), 2):
        both = sorted(shapes[one].keys() & shapes[two].keys())
        same = [name for name in both if shapes[one][name] == shapes[two][name]]
        if same:
            found.append({"students": [one, two], "alike": same, "both": len(both)})
    return sorted(found, key=lambda pair: (-len(pair["alike"]), pair["students"]))
