"""A student's process: what one cell prints costs the grader no more than its share."""

import re

import pytest

from hw3utils.course.grading.kernel import MOST_OUTPUT, Kernel, Surroundings, student_environment


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    around = Surroundings(tmp_path_factory.mktemp("student"), student_environment("grading", 1, None), 60)
    kernel = Kernel(around)
    yield kernel
    kernel.stop()


def texts(outputs):
    return [output.text for output in outputs if output.output_type == "stream"]


@pytest.mark.parametrize("flush", [True, False])
def test_a_cell_that_prints_too_much_keeps_its_beginning_and_its_error(kernel, flush):
    outputs = kernel.run(
        f"for k in range(300): print(k, 'x' * 100_000, flush={flush})\nraise ValueError('the end')", 60
    )
    printed = "".join(texts(outputs))
    assert printed.startswith("0 xxx")
    assert MOST_OUTPUT < len(printed) < MOST_OUTPUT + 1000
    assert printed.count("left out: the rest of this cell's output") == 1
    assert [output.evalue for output in outputs if output.output_type == "error"] == ["the end"]
    assert texts(kernel.run("print('z')", 60)) == ["z\n"]


def test_what_is_left_out_is_said_where_the_limit_falls_between_two_prints(kernel):
    source = f"print('x' * {MOST_OUTPUT - 1}, flush=True)\nprint('y', flush=True)\nprint('z')"
    printed = "".join(texts(kernel.run(source, 60)))
    assert printed.count("left out: the rest") == 1
    assert "y" not in printed.partition("(left out")[0]


def test_a_cell_that_shows_too_much_keeps_its_beginning(kernel):
    source = "for k in range(100): display({'text/html': 'y' * 300_000}, raw=True)"
    *shown, note = kernel.run(source, 60)
    assert 2 * MOST_OUTPUT < 300_000 * len(shown) < 3 * MOST_OUTPUT
    assert "left out: the rest of this cell's output" in note.text


def test_a_picture_shown_again_and_again_is_kept_once(kernel):
    source = """
    from IPython.display import clear_output, display
    for k in range(40):
        clear_output(wait=True)
        display({"text/html": f"frame {k}" + "y" * 300_000}, raw=True)
    """
    [shown] = kernel.run(re.sub("^    ", "", source, flags=re.M), 60)
    assert shown.data["text/html"].startswith("frame 39")


def test_what_a_stream_says_in_a_row_is_one_output(kernel):
    source = "import sys\nfor k in range(5):\n    print(k, flush=True)\nprint('e', file=sys.stderr, flush=True)"
    assert texts(kernel.run(source, 60)) == ["0\n1\n2\n3\n4\n", "e\n"]
