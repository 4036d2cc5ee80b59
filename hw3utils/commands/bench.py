"""`hw3 bench`: measure our steps beside those of others."""

import argparse
import dataclasses
from pathlib import Path

from hw3utils.commands import count

HELP = "measure our steps beside those of others"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("parts", nargs="*", metavar="PART", help="train, sample, score, fid (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threads", type=count, help="CPU threads of the wall times (default: all)")
    parser.add_argument("--rounds", type=count, default=11, help="measurements of each contender, taken in turn")
    parser.add_argument("--batch-size", type=count, default=64, help="train: pictures a step")
    parser.add_argument("--nfe", type=count, default=5, help="sample: evaluations of the network in one run")
    parser.add_argument("--growth", action="store_true", help="train, sample: memory and time as the work grows")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes fresh processes")
    parser.add_argument("--no-compile", action="store_true", help="sample: leave our compiled network out")
    parser.add_argument("--to-loss", action="store_true", help="the race to the course network's loss at step 1000")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")


def call(args: argparse.Namespace) -> int:
    """Measure, print, and write the numbers if it was asked for."""
    from hw3utils.bench import parts, timing
    from hw3utils.devices import resolve_device
    from hw3utils.files import check_writable, write_json

    unknown = [part for part in args.parts if part not in parts.PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r} to measure, expected {', '.join(parts.PARTS)}.")
    if args.nfe > 1000:
        raise ValueError(f"--nfe is {args.nfe}, expected at most the 1000 steps of the schedule.")
    device = resolve_device(args.device)
    if args.json is not None:
        check_writable(args.json.parent)
    options = timing.Options(
        rounds=args.rounds,
        threads=args.threads,
        batch_size=args.batch_size,
        nfe=args.nfe,
        growth=args.growth,
        memory=not args.no_memory,
        compile=not args.no_compile,
    )
    results = {"machine": timing.machine(device), "options": dataclasses.asdict(options)}
    for part in args.parts or ([] if args.to_loss else parts.PARTS):
        result = parts.PARTS[part](device, options)
        print(timing.report(part, result, device), end="\n\n", flush=True)
        results[part] = timing.as_json(result)
    if args.to_loss:
        race = parts.bench_to_loss(device, options)
        print(timing.report_race(race), flush=True)
        results["to loss"] = race
    if args.json is not None:
        write_json(args.json, results)
        print(f"the numbers are in {args.json}")
    return 0
