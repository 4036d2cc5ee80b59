"""The command line: finds the command, runs it, and turns its errors into one sentence and an exit code."""

import sys
from collections.abc import Sequence

from hw3utils import __version__
from hw3utils.commands import Parser, bench, check, data, fid, grade, marks, release, run, sample, submit, train
from hw3utils.progress import close_bars

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
    """Run a command; bad input is one sentence on stderr and exit code 2, Ctrl-C is 130."""
    parsed = command_parser().parse_args(arguments)
    try:
        return parsed.call(parsed)
    except KeyboardInterrupt:
        close_bars()
        out = getattr(parsed, "out", None)
        there = [str(path) for path in (out if isinstance(out, list) else [out]) if path is not None and path.exists()]
        where = f" and in {', '.join(there)}" if there else ""
        line = "\n" if sys.stderr.isatty() else ""
        print(f"{line}hw3 {parsed.command}: interrupted; what was written before is whole{where}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        # One line, whatever a library put into its message.
        close_bars()
        print(f"hw3 {parsed.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


if __name__ == "__main__":
    sys.exit(main())
