"""`hw3 bench`: measure our steps beside those of others."""

import argparse
import dataclasses
from typing import Any

from hw3utils.commands import count, path, refuse_unused

HELP = "measure our steps beside those of others"
# Options of some parts only.
PART_OPTIONS = {"batch-size": ("train",), "nfe": ("sample",), "growth": ("train", "sample")}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("parts", nargs="*", metavar="PART", help="train, sample, score, fid (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threads", type=count, help="CPU threads of the wall times (default: all)")
    parser.add_argument("--rounds", type=count, help="measurements of each contender, in turn (default: 11)")
    parser.add_argument("--batch-size", type=count, help="train: pictures a step (default: 64)")
    parser.add_argument("--nfe", type=count, help="sample: evaluations of the network in one run (default: 5)")
    parser.add_argument("--growth", action="store_true", help="train, sample: memory and time as the work grows")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes new processes")
    parser.add_argument("--no-compile", action="store_true", help="leave our compiled network out")
    parser.add_argument("--to-loss", action="store_true", help="the race to the course network's loss at step 1000")
    parser.add_argument("--json", type=path, help="also write the numbers to this file")


def call(args: argparse.Namespace) -> int:
    """Measure and print, and write the numbers with --json."""
    from hw3utils.bench import parts
    from hw3utils.bench.timing import machine_line
    from hw3utils.devices import resolve_device, reuse_freed_memory
    from hw3utils.files import check_output, write_json

    chosen = _parts(args, [*parts.PARTS])
    device = resolve_device(args.device)
    if args.json is not None:
        check_output(args.json)
    reuse_freed_memory()
    given = {name: getattr(args, name) for name in ("rounds", "threads", "batch_size", "nfe")}
    options = parts.Options(
        growth=args.growth,
        memory=not args.no_memory,
        compile=not args.no_compile,
        **{name: value for name, value in given.items() if value is not None},
    )
    machine = machine_line(device, args.threads)
    print(machine, end="\n\n", flush=True)
    results: dict[str, Any] = {"machine": machine, "options": dataclasses.asdict(options)}
    for part in chosen:
        results[part] = parts.PARTS[part](device, options)
        print(parts.report(part, results[part], device), end="\n\n", flush=True)
    if args.to_loss:
        results["to loss"] = parts.bench_to_loss(device, options)
        print(parts.report_race(results["to loss"]), flush=True)
    if args.json is not None:
        write_json(args.json, results)
        print(f"the numbers are in {args.json}")
    return 0


def _parts(args: argparse.Namespace, known: list[str]) -> list[str]:
    """The parts to measure; raises ValueError on an unknown one, and on options without effect on them."""
    chosen = args.parts or ([] if args.to_loss else known)
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"there is no part {unknown[0]!r} to measure, expected {', '.join(known)}.")
    for option, of in PART_OPTIONS.items():
        if not set(of) & set(chosen):
            refuse_unused(args, [option], f"is an option of {' and '.join(of)}")
    if not chosen:
        refuse_unused(args, ["rounds"], "is no option of --to-loss")
    if (args.nfe or 0) > 1000:
        raise ValueError(f"--nfe is {args.nfe}, expected at most the 1000 steps of the schedule.")
    return chosen
