"""The command line: parses the arguments, runs the command, and turns its errors into a sentence and an exit code."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence

import hw3utils.course.notebooks  # noqa: F401 (before nbformat: see there)
from hw3utils import __version__
from hw3utils.commands import Parser, bench, check, data, fid, grade, marks, release, run, sample, submit, train
from hw3utils.progress import Terminal, close_bars, printable

COMMANDS = (run, check, submit, train, sample, fid, data, bench, release, grade, marks)


def command_parser() -> Parser:
    """The parser of `hw3` with all its commands."""
    parser = Parser(
        prog="hw3", description="Diffusion and score-based models, seven notebooks and their helper package."
    )
    parser.add_argument("--version", action="version", version=f"hw3utils {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        own = commands.add_parser(name, help=command.HELP)
        command.arguments(own)
        own.set_defaults(call=command.call)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, or 2 for bad input, 1 when the work failed, 130 after Ctrl-C, 141 when the output was closed.
    """
    _prepare_output()
    parsed = command_parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(Terminal(sys.stdout)):
            code = parsed.call(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        out = getattr(parsed, "out", None)
        there = [str(path) for path in (out if isinstance(out, list) else [out]) if path is not None and path.exists()]
        where = f", also in {', '.join(there)}" if there else ""
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return _report(f"hw3 {parsed.command}: interrupted; files that were written are complete{where}", 130)
    except BrokenPipeError:
        return _report(f"hw3 {parsed.command}: the output was closed", 141)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        return _report(f"hw3 {parsed.command}: {error}", 1 if isinstance(error, FloatingPointError) else 2)
    except (MemoryError, RuntimeError) as error:
        if (reason := _known_failure(error)) is None:
            raise
        return _report(f"hw3 {parsed.command}: {reason}", 1)
    return code


def _known_failure(error: Exception) -> str | None:
    """A sentence for an error of memory or compilation, None for any other, which is a fault of the program."""
    text = " ".join(str(error).split())
    kind = type(error)
    of_memory = kind.__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or of_memory:
        return f"not enough memory ({text[:150] or 'MemoryError'}); take a smaller --batch-size or --n."
    if kind.__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile does not work here ({text[:150]}); leave --compile out."
    return None


def _prepare_output() -> None:
    """Give a process without stdout or stderr the null device, and let no character fail for the encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as the process)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _report(message: str, code: int) -> int:
    """Print a message to stderr in one line, where that is still open, and return the exit code."""
    with contextlib.suppress(OSError):
        close_bars()
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is sys.stderr:
                print(printable(message), file=stream)
            stream.flush()
        except OSError:
            # What is left in its buffer would fail again when Python exits.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
