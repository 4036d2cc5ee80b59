"""Attempts to get points without the solution: none works, and no other submission loses points."""

import json
import textwrap

import nbformat
import pytest
from course_helpers import mark

from hw3utils.course.grading import session as grade
from hw3utils.course.release import release

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

RIGHT = """
def {f}(x0, t, eps, schedule):
    bar = schedule.alpha_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar).sqrt() * eps
"""
# Each is the solution cell of one exercise; {f} is the function that is judged, which none of them has right.
CHEATS = {
    "the check is replaced": "checks.check_perturb_input = lambda *a, **k: 0.0\ndef {f}(x0, *a): return x0",
    "the report is replaced": "report.check = lambda *a, **k: print('PASS')\ndef {f}(x0, *a): return x0",
    "its class is replaced": "type(report).check = lambda *a, **k: None\ndef {f}(x0, *a): return x0",
    "torch.equal and allclose are patched": """
        torch.equal = torch.allclose = lambda *a, **k: True
        def {f}(x0, *a): return x0
    """,
    "the arithmetic of tensors is patched": """
        torch.Tensor.abs = lambda self: self * 0
        torch.Tensor.__lt__ = lambda self, other: torch.ones(1, dtype=torch.bool)
        def {f}(x0, *a): return x0
    """,
    "a result that equals everything": """
        class Equal:
            shape, dtype = (6, 3, 16, 16), torch.float32
            def __eq__(self, other): return True
            def __getattr__(self, name): return lambda *a, **k: self
        def {f}(x0, *a): return Equal()
    """,
    "a tensor of a class of its own": """
        class Yes(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                return torch.zeros(()) if func.__name__ in ("sub", "abs", "max") else super().__torch_function__(
                    func, types, args, kwargs or {{}})
        def {f}(x0, *a): return x0.as_subclass(Yes)
    """,
    "values wanted are read from the frames": """
        import sys
        def {f}(x0, t, eps, schedule):
            frame = sys._getframe()
            while frame:
                for name in ("want", "expected", "log_bar"):
                    if name in frame.f_locals: return frame.f_locals[name]
                frame = frame.f_back
            return x0
    """,
    "values wanted are looked for in memory": """
        import gc
        def {f}(x0, t, eps, schedule):
            same = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.shape == x0.shape]
            return same[-1]
    """,
    "a trace function makes every error zero": """
        import sys
        def trace(frame, event, arg):
            if "error" in frame.f_locals: frame.f_locals["error"] = 0.0
            return trace
        def {f}(x0, *a):
            sys.settrace(trace)
            return x0
    """,
    "the process ends with code 0": "import os\ndef {f}(x0, *a): os._exit(0)",
    "SystemExit with code 0": "def {f}(x0, *a): raise SystemExit(0)",
    "an output that imitates a PASS line": """
        print("PASS  Q1.P2  error on fresh input: within its limits (must be below 1e-05)")
        def {f}(x0, *a):
            print("PASS  Q1.P2  error on fresh input: within its limits (must be below 1e-05)")
            return x0
    """,
    "an error that imitates a PASS line": """
        class PASS(BaseException): pass
        def {f}(x0, *a): raise PASS("PASS  Q1.P2  error on fresh input: within its limits")
    """,
    "an error whose text is an error": """
        class Bad(Exception):
            def __str__(self): raise RuntimeError
        def {f}(x0, *a): raise Bad
    """,
    "the files of the package are changed": """
        from pathlib import Path
        import hw3utils.course.checks.diffusion as module
        file = Path(module.__file__)
        file.chmod(0o644)
        file.write_text(file.read_text().replace("def say(", "def _say(") + "\\n\\ndef say(*a): pass\\n")
        def {f}(x0, *a): return x0
    """,
    "a forked child answers as well": """
        import os
        def {f}(x0, *a):
            os.fork()
            return x0
    """,
    "the arguments are set to zero": """
        def {f}(x0, t, eps, schedule):
            x0.zero_(), eps.zero_()
            return x0 * 0
    """,
    "the schedule is changed": """
        def {f}(x0, t, eps, schedule):
            schedule.signal.zero_(), schedule.noise.zero_()
            return x0 * 0
    """,
    "nothing but NaN": "def {f}(x0, *a): return x0 * float('nan')",
    "a result without end": "def {f}(x0, *a): return torch.zeros(80_000_000)",
    "an answer of the line's own": """
        import sys
        def {f}(x0, *a):
            frame = sys._getframe()
            while "self" not in frame.f_locals or not hasattr(frame.f_locals["self"], "channel"):
                frame = frame.f_back
            line = frame.f_locals["self"]
            for k in range(20): line.send({{"answer": {{"state": "passed", "message": "PASS"}}}})
            return x0
    """,
    "noise on the line": """
        import sys
        def {f}(x0, *a):
            frame = sys._getframe()
            while "self" not in frame.f_locals or not hasattr(frame.f_locals["self"], "channel"):
                frame = frame.f_back
            frame.f_locals["self"].channel.send_bytes(b'{{"state": "passed"}}' * 1000)
            return x0
    """,
    "the judge is killed": """
        import os, signal
        from pathlib import Path
        def {f}(x0, *a):
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    if b"judge.main" in (place / "cmdline").read_bytes(): os.kill(int(place.name), signal.SIGKILL)
                except OSError: pass
            return x0
    """,
    "the line is patched": """
        from hw3utils.course.grading.judge import student_side as student_end
        student_end.StudentConnection._look_up = lambda self, name: {{"is": "value", "value": True}}
        def {f}(x0, *a): return x0
    """,
    "the seed is asked of the environment": """
        import os
        SEED = os.environ.get("HW3_CHECK_SEED")
        def {f}(x0, *a): return x0 if SEED is None else 1 / 0
    """,
    "all names are cleared": """
        def {f}(x0, *a):
            globals().clear()
            return x0
    """,
    "no function but True": "{f} = True",
    "more points in the mark": "def {f}(x0, *a): return x0",
    # The last of its submission: no cell after it runs.
    "cells change their outputs when they end": """
        def after(*a): print("PASS")
        get_ipython().events.register("post_run_cell", after)
        get_ipython().run_cell = lambda *a, **k: None
        def {f}(x0, *a): return x0
    """,
}
CORRECT = "correct"
# Exercises of one submission.
TOGETHER = 5


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    """A homework of as many exercises as there are cheats in a submission; its edition."""
    new = nbformat.v4
    setup = "import torch\nfrom hw3utils.course import Report, checks\nreport = Report('01')"
    cells = [new.new_code_cell(setup, metadata=mark("Q1-setup", "code", locked=True))]
    for k in range(TOGETHER):
        code = f"### BEGIN SOLUTION{RIGHT.format(f=f'f{k}')}### END SOLUTION"
        check = f"report.check('Q1.P2', 'error', checks.check_perturb_input(f{k}), below=1e-5, fresh=True)"
        role = {"grade": True, "locked": True, "points": 1}
        cells.append(new.new_code_cell(code, metadata=mark(f"Q1-P2-solution-{k}", "code", solution=True)))
        cells.append(new.new_code_cell(check, metadata=mark(f"Q1-P2-check-{k}", "code", **role)))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder = tmp_path_factory.mktemp("homework")
    path = folder / "01_small.ipynb"
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), path)
    release(folder / "edition", [str(path)])
    return path, folder / "edition" / path.name


def hand_in(folder, edition, solutions):
    """A submission with these solutions, every check with more points in its mark than it has."""
    notebook = nbformat.read(edition, as_version=4)
    for k, solution in enumerate(solutions):
        notebook.cells[1 + 2 * k].source = textwrap.dedent(solution).strip().format(f=f"f{k}")
        notebook.cells[2 + 2 * k].metadata["nbgrader"]["points"] = 100
    folder.mkdir()
    nbformat.write(notebook, folder / edition.name)
    (folder / "student_number.txt").write_text("4711")
    return folder


def test_cheats_get_no_points_and_take_none_from_others(homework, tmp_path, monkeypatch):
    path, edition = homework
    monkeypatch.setattr(grade, "find_notebooks", lambda names=(): [path])
    names = list(CHEATS)
    groups = [names[n : n + TOGETHER] for n in range(0, len(names), TOGETHER)]
    folders = [
        hand_in(tmp_path / f"cheat-{n}", edition, [CHEATS[name] for name in group]) for n, group in enumerate(groups)
    ]
    folders.append(hand_in(tmp_path / CORRECT, edition, [RIGHT] * TOGETHER))
    results = grade.grade(folders, tmp_path / "out", timeout=30, seed=3, jobs=2)
    got = {name: cell.points for group, result in zip(groups, results, strict=False) for name, cell in zip(
        group, result.cells, strict=False)}  # fmt: skip
    assert got == dict.fromkeys(CHEATS, 0.0)
    assert [(cell.points, cell.state) for cell in results[-1].cells] == [(1.0, "passed")] * TOGETHER
    report = json.loads((tmp_path / "out" / CORRECT / "report.json").read_text())
    assert report["problems"] == []
    assert len(CHEATS) >= 25
