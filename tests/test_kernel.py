"""A student's kernel: limits of its outputs, and the end of everything that it starts."""

import contextlib
import re

import psutil
import pytest

from hw3utils.course.grading.kernel import MAX_CELL_OUTPUT, Kernel, KernelConfig, KernelCrashed, student_environment
from hw3utils.course.grading.session import environment_state


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    kernel = Kernel(KernelConfig(folder, student_environment("grading", 1, None), 60, torch=False))
    yield kernel
    kernel.stop()


def texts(outputs):
    return [output.text for output in outputs if output.output_type == "stream"]


def test_torch_is_imported_only_where_it_is_used(kernel):
    assert texts(kernel.run("import sys; print('torch' in sys.modules)", 60)) == ["False\n"]


@pytest.mark.parametrize("flush", [True, False])
def test_a_cell_that_prints_too_much_keeps_its_beginning_and_its_error(kernel, flush):
    outputs = kernel.run(
        f"for k in range(300): print(k, 'x' * 100_000, flush={flush})\nraise ValueError('the end')", 60
    )
    printed = "".join(texts(outputs))
    assert printed.startswith("0 xxx")
    assert MAX_CELL_OUTPUT < len(printed) < MAX_CELL_OUTPUT + 1000
    assert printed.count("left out: the rest of this cell's output") == 1
    assert [output.evalue for output in outputs if output.output_type == "error"] == ["the end"]
    assert texts(kernel.run("print('z')", 60)) == ["z\n"]


def test_a_note_marks_the_limit_between_two_prints(kernel):
    source = f"print('x' * {MAX_CELL_OUTPUT - 1}, flush=True)\nprint('y', flush=True)\nprint('z')"
    printed = "".join(texts(kernel.run(source, 60)))
    assert printed.count("left out: the rest") == 1
    assert "y" not in printed.partition("(left out")[0]


def test_a_cell_that_shows_too_much_keeps_its_beginning(kernel):
    source = "for k in range(100): display({'text/html': 'y' * 300_000}, raw=True)"
    *shown, note = kernel.run(source, 60)
    assert 2 * MAX_CELL_OUTPUT < 300_000 * len(shown) < 3 * MAX_CELL_OUTPUT
    assert "left out: the rest of this cell's output" in note.text


def test_a_replaced_output_is_kept_once(kernel):
    source = """
    from IPython.display import clear_output, display
    for k in range(40):
        clear_output(wait=True)
        display({"text/html": f"frame {k}" + "y" * 300_000}, raw=True)
    """
    [shown] = kernel.run(re.sub("^    ", "", source, flags=re.M), 60)
    assert shown.data["text/html"].startswith("frame 39")


def test_consecutive_prints_are_one_output(kernel):
    source = "import sys\nfor k in range(5):\n    print(k, flush=True)\nprint('e', file=sys.stderr, flush=True)"
    assert texts(kernel.run(source, 60)) == ["0\n1\n2\n3\n4\n", "e\n"]


# ------------------------------------------------------------------------------------------------- what a cell starts

STARTS = """
import os, subprocess, sys
program = [sys.executable, "-c", "import time; time.sleep(1000)", {mark!r}]
subprocess.Popen(" ".join(map("'{{}}'".format, program)) + " &", shell=True)
subprocess.Popen(["setsid", "nohup", *program], env={{}} if {bare} else None, stdout=subprocess.DEVNULL)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, program)
    os._exit(0)
{end}
"""


@pytest.mark.parametrize("end", ["", "os._exit(1)"], ids=["kernel stopped", "kernel ended itself"])
def test_everything_that_a_cell_started_is_killed(end, tmp_path):
    mark = f"left-over-{tmp_path.name}-{end}"
    config = KernelConfig(tmp_path, student_environment("tiny", 1, None), 60)
    kernel = Kernel(config)
    try:
        with contextlib.suppress(KernelCrashed):
            kernel.run(STARTS.format(mark=mark, bare=not end, end=end), 60)
        assert len(processes_with(mark)) >= 1 or end
    finally:
        kernel.stop()
    assert processes_with(mark) == []


def processes_with(mark):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# ------------------------------------------------------------------------------------- what costs only its own cell


@pytest.mark.parametrize("source", ["quit()", "exit()", "import sys; sys.exit(0)", "get_ipython().ask_exit()"])
def test_leaving_ends_a_cell_but_not_the_kernel(kernel, source):
    outputs = kernel.run(f"before = {source!r}\n{source}\nbefore = None", 60)
    assert [output.ename for output in outputs if output.output_type == "error"] == ["SystemExit"]
    assert texts(kernel.run("print(before)", 60)) == [f"{source}\n"]


def test_a_closed_stdout_costs_no_other_cell(kernel):
    kernel.run("import sys; sys.stdout.close(); sys.stderr = None", 60)
    assert texts(kernel.run("print('still here')", 60)) == ["still here\n"]


@pytest.mark.parametrize(
    "source",
    ["!touch made", "%cd /", "%%bash\ntouch made", "files = !touch made", "%sx touch made", "%pip install nothing"],
)
def test_shell_commands_do_not_run(kernel, source):
    kernel.run(source, 60)
    assert texts(kernel.run("import os; print(os.path.exists('made'), os.getcwd() == '/')", 60)) == ["False False\n"]


def test_pip_changes_nothing_however_it_is_called(kernel):
    words = "[sys.executable, '-m', 'pip', 'install', 'wheel']"
    source = f"import subprocess, sys\nsubprocess.run({words}, capture_output=True)"
    before = environment_state()
    kernel.run(source, 60)
    assert environment_state() == before
