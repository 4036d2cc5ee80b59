"""`hw3 fid`: measure the Fréchet distance of two sets of pictures, or the FID table of samplers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hw3utils.commands import count, cut_arguments, cut_of, name_or_path, path, refuse_unused
from hw3utils.progress import close_bars, printable, progress

if TYPE_CHECKING:
    import torch

    from hw3utils.schedules import NoiseSchedule

HELP = "measure the Fréchet distance of two sets of pictures"
TABLE_OUT = Path("out/fid")
# Options with an effect in one of the two modes only; their defaults are None or False.
WITHOUT_TABLE = ("inception-weights", "kid", "steps", "eta", "batch-size")
WITH_TABLE = ("cells", "out", "precision", "compile")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sets",
        nargs="*",
        type=name_or_path,
        metavar="SET",
        help="two of: a folder of pictures, an .npy array uint8 (N, H, W, 3), weights (a file, its folder, or "
        "the name of shipped ones), embedded:train, embedded:test",
    )
    parser.add_argument("--extractor", default="sprites", help="features to measure in: sprites (shipped) or inception")
    parser.add_argument("--inception-weights", type=path, metavar="FILE", help="weights of the Inception network")
    parser.add_argument(
        "--n",
        type=count,
        help="most pictures of each set, a random part (default: all; 5000 samples; --table: 10000 a cell)",
    )
    parser.add_argument("--kid", action="store_true", help="also the kernel distance, with its standard error")
    parser.add_argument("--steps", type=count, help="weights: steps of DDIM (default: 50)")
    parser.add_argument("--eta", type=float, help="weights: eta of DDIM (default: 0)")
    parser.add_argument("--seed", type=int, help="decides the samples, and the part that --n takes (default: 0)")
    parser.add_argument("--batch-size", type=count, help="pictures at once (default: 250)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    cut_arguments(parser)
    parser.add_argument("--table", action="store_true", help="instead: samplers over steps; resumable")
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="CELL",
        help="--table: only these, such as S1000_sigma-hat (default: all)",
    )
    parser.add_argument("--out", type=path, help=f"--table: folder of its pictures and fid.json (default: {TABLE_OUT})")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], help="--table: arithmetic of the sampling (default: fp32)"
    )
    parser.add_argument("--compile", action="store_true", help="--table: compile the network (needs a C++ compiler)")


def call(args: argparse.Namespace) -> int:
    """Measure and print."""
    from hw3utils.devices import process_group, resolve_device, reuse_freed_memory

    device = resolve_device(args.device)
    if args.table:
        refuse_unused(args, WITHOUT_TABLE, "is no option of --table")
        reuse_freed_memory()
        with process_group(device) as device:
            return _table(args, device)
    refuse_unused(args, WITH_TABLE, "is an option of --table")
    _check_sets(args)
    reuse_freed_memory()
    return _distance(args, device)


def _check_sets(args: argparse.Namespace) -> None:
    """Raise unless there are two sets, and every option has an effect on one of them."""
    from hw3utils.datasets import is_weights

    if len(args.sets) != 2:
        raise ValueError(f"hw3 fid compares two sets of pictures, got {len(args.sets)}; see hw3 fid --help.")
    if not any(map(is_weights, args.sets)):
        refuse_unused(args, ("steps", "eta"), "is for sampling, and no set is weights")
        if args.n is None:
            refuse_unused(args, ("seed",), "decides samples and the part that --n takes, and there is neither")
    if cut_of(args) and not any(Path(name).is_dir() for name in args.sets):
        raise ValueError("--size, --tile and the options after them are for a folder of pictures, and no set is one.")


def _distance(args: argparse.Namespace, device: "torch.device") -> int:
    """Measure two sets and print their distance."""
    from hw3utils.datasets import open_set
    from hw3utils.fid import distance_of, feature_statistics, kid
    from hw3utils.learning.features import feature_extractor

    extractor = feature_extractor(args.extractor, inception_weights=args.inception_weights, device=device)
    options: dict[str, Any] = {"n": args.n, "steps": args.steps or 50, "eta": args.eta or 0.0, "cut": cut_of(args)}
    options |= {"device": device, "batch_size": args.batch_size or 250}
    sets = [open_set(name, seed=(args.seed or 0) + i, **options) for i, name in enumerate(args.sets)]
    statistics = [
        feature_statistics(progress(pictures, desc=pictures.description, unit="batch"), extractor) for pictures in sets
    ]
    counts = [part.n for part in statistics]
    print(f"FID {distance_of(*statistics):.4f}, {extractor.num_features} {extractor.name} features")
    if args.kid:
        if min(counts) < 4:
            raise ValueError(f"--kid got a set of {min(counts)} pictures, expected at least 4.")
        passes = (progress(part, desc=part.description, unit="batch") for part in sets)
        value, error = kid(*passes, extractor=extractor, subset_size=min(500, min(counts) // 2))
        print(f"KID {value:.6f} +- {error:.6f} (standard error over disjoint subsets)")
    for label, part, number in zip("AB", sets, counts, strict=True):
        print(f"{label}: {number} pictures, {part.description}")
    if min(counts) <= extractor.num_features:
        print(f"note: with {min(counts)} pictures for {extractor.num_features} features the FID is far too large.")
    return 0


def _table(args: argparse.Namespace, device: "torch.device") -> int:
    """Make the missing pictures of the table, measure them, and write the table."""
    import torch

    from hw3utils import load_pretrained, pretrained_card
    from hw3utils.bench import fid_table
    from hw3utils.devices import compiled, in_precision, process_count, process_rank
    from hw3utils.learning.features import feature_extractor
    from hw3utils.sprites import load_sprites

    if args.sets or args.extractor != "sprites" or cut_of(args):
        raise ValueError(
            "--table measures the shipped weights in sprites features; leave the sets, --extractor and --size out."
        )
    if args.n not in (None, *fid_table.SIZES):
        sizes = ", ".join(map(str, fid_table.SIZES))
        raise ValueError(f"--n is {args.n}, expected for --table one of {sizes}.")
    cells, out, precision = fid_table.cells_named(args.cells or []), args.out or TABLE_OUT, args.precision or "fp32"
    network, of_network = load_pretrained("sprites", device=device)
    schedule = cast("NoiseSchedule", of_network)
    data = load_sprites()
    plan = {
        "weights": pretrained_card("sprites")["sha256"],
        "precision": precision,
        "compiled": args.compile,
        "seed": args.seed or 0,
        "shares": data.train_labels.mean(0).round(6).tolist(),
        "n": args.n or max(fid_table.SIZES),
    }
    model = (compiled if args.compile else in_precision)(network, precision)
    files = fid_table.make_pictures(model, schedule, plan, out=out, cells=cells, device=device)
    try:
        for _ in progress(files, desc=f"pictures in {out}", unit="file", total=fid_table.n_files(plan, cells)):
            pass
    except KeyboardInterrupt:
        close_bars()
        print(printable(f"stopped; the same command goes on with what is missing in {out}"), file=sys.stderr)
        return 130
    if process_count() > 1:
        torch.distributed.barrier()
    if process_rank() > 0:
        return 0
    rows = dict(progress(fid_table.make_table(out, feature_extractor("sprites"), data), desc="measuring"))
    written = fid_table.write_table(out / "fid.json", out, rows, data, f"hw3 {' '.join(sys.argv[1:])}")
    print(fid_table.table_text(rows))
    print(f"{len(rows) - 1} of {len(fid_table.table_cells())} cells are complete; the numbers are in {written}")
    return 0
