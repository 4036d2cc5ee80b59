"""Dependencies between the statements of a notebook: which must run so that a given one can."""

import ast
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nbformat import NotebookNode

from hw3utils.course.notebooks.cells import STUB_LINE, grade_id, is_check, syntax_tree

# Cell magics whose body runs as Python in the notebook's namespace.
_TRANSPARENT_MAGIC = re.compile(r"\s*%%(?:time|timeit|capture|prun)\b[^\n]*\n")
# Methods that change their object, wherever they are called.
_MUTATOR_NAMES = "append extend insert update setdefault add remove discard pop popitem clear sort reverse"
_MUTATORS = frozenset(_MUTATOR_NAMES.split())
# Functions of modules that change how the module works: torch.set_default_dtype.
_CONFIGURES = re.compile(r"(set|use|enable|disable|config|init|register|setup|seed|manual_seed|prepare)")


@dataclass(frozen=True)
class Statement:
    """The unit that runs or not: a marked cell, or one statement of any other cell.

    Args:
        cell: number of its cell.
        source: its text.
        binds: names that it assigns or may change; "*" if any name is possible.
        uses: names that it needs from others.
        assigns: those of `binds` that it assigns.
        calls: functions that it calls: it may change what these assign globally.
        globals_set: names that the functions in it assign globally.
    """

    cell: int
    source: str
    binds: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    assigns: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    globals_set: frozenset[str] = frozenset()


def statements_of(notebook: NotebookNode) -> list[Statement]:
    """The statements of a notebook in order. A cell that is not valid Python is one statement without names."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        mark, name = cell.metadata.get("nbgrader", {}), grade_id(cell)
        statements = _parse(cell.source)
        if statements is None:
            found.append(Statement(number, cell.source))
        elif name and (mark.get("solution") or mark.get("grade") or is_check(name)):
            found.append(_merge(number, cell.source, statements))
        elif _TRANSPARENT_MAGIC.match(cell.source):
            found.append(_merge(number, "\n".join(statement.source for statement in statements), statements))
        else:
            found += [replace(statement, cell=number) for statement in statements]
    return _with_effects(found)


def required_statements(statements: Sequence[Statement], goal: int) -> set[int]:
    """The statements that have to run for one of them.

    Args:
        statements: those of a notebook.
        goal: number of the statement that is to run.

    Returns:
        Their numbers with the goal's. A name comes from the last statement that assigns it before its use; a name
        that a function uses may also be assigned later, before the goal.
    """
    chosen, left = {goal}, [goal]
    # `import *` and `%run` may define any name.
    for n in range(goal):
        if "*" in statements[n].binds:
            chosen.add(n)
            left.append(n)
    while left:
        user = left.pop()
        for name in statements[user].uses:
            givers = [n for n in range(goal) if n != user and name in statements[n].binds]
            before = [n for n in givers if n < user]
            for giver in before[-1:] or givers[-1:]:
                if giver not in chosen:
                    chosen.add(giver)
                    left.append(giver)
    return chosen


def bound_names(statements: Sequence[Statement]) -> frozenset[str]:
    """All names that some statements assign or may change."""
    return frozenset().union(*(statement.binds for statement in statements))


def replaced_stubs(notebook: NotebookNode, statements: Sequence[Statement]) -> set[int]:
    """Unchanged stubs whose names another cell defines: run after it, they would undo it."""
    stubs = set()
    for n, cell in enumerate(notebook.cells):
        mark = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and mark.get("solution") and STUB_LINE in cell.source:
            own = bound_names([statement for statement in statements if statement.cell == n])
            others = bound_names([statement for statement in statements if statement.cell != n])
            if own and own <= others and cell.source.count(STUB_LINE) >= len(own):
                stubs.add(n)
    return stubs


def _merge(cell: int, source: str, statements: Sequence[Statement]) -> Statement:
    """A cell that runs completely or not, as one statement."""

    def joined(name: str) -> frozenset[str]:
        return frozenset().union(*(getattr(statement, name) for statement in statements))

    binds = joined("binds")
    used: set[str] = set()
    bound: set[str] = set()
    for statement in statements:
        # Names in a function are looked up when it is called, after the cell has run.
        used |= statement.uses - (binds if statement.source.startswith(("def ", "class ", "@")) else bound)
        bound |= statement.binds
    return Statement(cell, source, binds, frozenset(used), joined("assigns"), joined("calls"), joined("globals_set"))


def _with_effects(statements: Sequence[Statement]) -> list[Statement]:
    """Add to each statement the names that the functions that it calls assign globally.

    A call of a module's function does not change the module, unless its name says so.
    """
    modules = frozenset().union(*(statement.binds for statement in statements if _is_import(statement)))
    effects: dict[str, frozenset[str]] = {}
    for statement in statements:
        if statement.globals_set:
            effects |= dict.fromkeys(statement.binds - statement.globals_set, statement.globals_set)
    found = []
    for statement in statements:
        changed = frozenset().union(*(effects.get(name, frozenset()) for name in statement.calls))
        unchanged = frozenset() if _is_import(statement) else modules - statement.assigns
        found.append(replace(statement, binds=statement.binds - unchanged | changed))
    return found


def _is_import(statement: Statement) -> bool:
    return statement.source.startswith(("import ", "from ")) and "\n" not in statement.source


def _parse(source: str) -> list[Statement] | None:
    """The statements of a cell with their names, IPython's syntax as calls; None if it is not valid."""
    from IPython.core.inputtransformer2 import TransformerManager

    source = _TRANSPARENT_MAGIC.sub("", source, count=1) if _TRANSPARENT_MAGIC.match(source) else source
    try:
        tree = syntax_tree(TransformerManager().transform_cell(source))
        return None if tree is None else [_statement(node) for node in tree.body]
    except (SyntaxError, RecursionError):  # of the transformer, and of what is too deep to be written again
        return None


def _statement(node: ast.stmt) -> Statement:
    """One statement with its names."""
    text = ast.unparse(node)
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return Statement(0, text, frozenset("*"))
    if text.startswith("get_ipython().run_line_magic('run',"):
        return Statement(0, text, frozenset("*"))
    table = symtable.symtable(text, "cell", "exec")
    binds = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    uses = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    globals_set = set()
    for symbol in _globals_in_functions(table):
        uses.add(symbol.get_name())
        if symbol.is_assigned():
            globals_set.add(symbol.get_name())
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        uses.discard(node.name)
    assigns = binds | globals_set | _configured(node)
    sets = (assigns | _changed_in_place(node), uses, assigns, _called(node), globals_set)
    return Statement(0, text, *map(frozenset, sets))


def _globals_in_functions(table: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
    """The global names in the functions of a statement, at any depth."""
    for child in table.get_children():
        yield from (symbol for symbol in child.get_symbols() if symbol.is_global())
        yield from _globals_in_functions(child)


def _root(node: ast.expr) -> set[str]:
    """The name at the root of x[0].a, {"x"}; empty without one."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _changed_in_place(statement: ast.stmt) -> set[str]:
    """Names whose values may change: x of x[0] = 1, of x.a = 1, and of the statement x.append(1)."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= _root(node.value)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and (node is statement or function.attr in _MUTATORS):
                found |= _root(function.value)
    # The claims that `report` collects decide no check.
    return found - {"report"}


def _configured(statement: ast.stmt) -> set[str]:
    """The module or object of a statement such as torch.set_default_dtype(...)."""
    function = (
        statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    )
    if isinstance(function, ast.Attribute) and _CONFIGURES.match(function.attr):
        return _root(function.value)
    return set()


def _called(statement: ast.stmt) -> set[str]:
    """Functions that a statement calls, unless it is a definition."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return set()
    return {
        node.func.id for node in ast.walk(statement) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
