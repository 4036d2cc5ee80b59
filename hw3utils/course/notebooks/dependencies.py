"""What a cell stands on: the statements of a notebook that give it its names, and no others."""

import ast
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nbformat import NotebookNode

from hw3utils.course.notebooks.cells import grade_id, is_check


@dataclass(frozen=True)
class Piece:
    """A part of a notebook that runs or not: a marked cell as a whole, one statement of any other cell.

    Args:
        cell: number of its cell.
        source: its text.
        binds: names that it gives, or changes.
        uses: names that it takes from others.
    """

    cell: int
    source: str
    binds: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()


def pieces(notebook: NotebookNode) -> list[Piece]:
    """The pieces of a notebook in order. A cell that is no Python is one piece that gives no name."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        mark, name = cell.metadata.get("nbgrader", {}), grade_id(cell)
        try:
            statements = _statements(cell.source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found.append(Piece(number, cell.source))
            continue
        if name and (mark.get("solution") or mark.get("grade") or is_check(name)):
            binds = frozenset().union(*(statement.binds for statement in statements))
            taken, given = set(), set()
            for statement in statements:
                # What stands in a function is looked up when it is called, after the cell has run.
                taken |= statement.uses - (binds if statement.source.startswith(("def ", "class ", "@")) else given)
                given |= statement.binds
            found.append(Piece(number, cell.source, binds, frozenset(taken)))
        else:
            found += [Piece(number, piece.source, piece.binds, piece.uses) for piece in statements]
    return found


def needed(found: Sequence[Piece], goal: int) -> set[int]:
    """Which pieces have to run so that one of them can.

    Args:
        found: the pieces of a notebook.
        goal: number of the piece that is to run.

    Returns:
        Their numbers, the goal's own included. Each name comes from the piece that gave it last, before it is used;
        one that a function uses may also be given later, before the goal.
    """
    chosen, left = {goal}, [goal]
    # Nobody knows what "import *" gives.
    chosen |= {n for n in range(goal) if found[n].binds == {"*"}}
    while left:
        user = left.pop()
        for name in found[user].uses:
            givers = [n for n in range(goal) if n != user and name in found[n].binds]
            before = [n for n in givers if n < user]
            for giver in before[-1:] or givers[-1:]:
                if giver not in chosen:
                    chosen.add(giver)
                    left.append(giver)
    return chosen


def _statements(source: str) -> list[Piece]:
    """The statements of a cell, with their names; the lines that only IPython knows as what it makes of them."""
    from IPython.core.inputtransformer2 import TransformerManager

    tree = ast.parse(TransformerManager().transform_cell(source))
    return [_piece(statement) for statement in tree.body]


def _piece(statement: ast.stmt) -> Piece:
    """One statement and its names."""
    text = ast.unparse(statement)
    if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
        return Piece(0, text, frozenset("*"))
    table = symtable.symtable(text, "cell", "exec")
    binds = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    uses = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    for symbol in _globals_within(table):
        uses.add(symbol.get_name())
        if symbol.is_assigned():
            binds.add(symbol.get_name())
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        uses.discard(statement.name)
    return Piece(0, text, frozenset(binds | _changed(statement)), frozenset(uses))


def _globals_within(table: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
    """What the functions in a statement, and those in them, take from outside."""
    for child in table.get_children():
        yield from (symbol for symbol in child.get_symbols() if symbol.is_global())
        yield from _globals_within(child)


def _changed(statement: ast.stmt) -> set[str]:
    """Names whose values change by assignment to a part: x of x[0] = 1 and of x.a = 1."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            base = node.value
            while isinstance(base, ast.Subscript | ast.Attribute):
                base = base.value
            found |= {base.id} if isinstance(base, ast.Name) else set()
    return found
