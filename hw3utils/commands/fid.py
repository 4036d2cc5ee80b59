"""`hw3 fid`: measure the Fréchet distance of two sets of pictures, or the whole table of samplers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hw3utils.commands import count, cut_arguments, cut_of
from hw3utils.progress import close_bars, progress

if TYPE_CHECKING:
    import torch

HELP = "measure the Frechet distance of two sets of pictures"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help="two of: a folder of pictures, an .npy array uint8 (N, H, W, 3), weights (a file, its folder, or "
        "the name of shipped ones), embedded:train, embedded:test",
    )
    parser.add_argument("--extractor", default="sprites", help="features to measure in: sprites (shipped) or inception")
    parser.add_argument("--inception-weights", type=Path, metavar="FILE", help="weights of the Inception network")
    parser.add_argument(
        "--n",
        type=count,
        help="most pictures of each set, a random part (default: all; 5000 samples; --table: 10000 a cell)",
    )
    parser.add_argument("--kid", action="store_true", help="also the kernel distance, with its standard error")
    parser.add_argument("--steps", type=count, default=50, help="weights: steps of DDIM")
    parser.add_argument("--eta", type=float, default=0.0, help="weights: eta of DDIM")
    parser.add_argument("--seed", type=int, default=0, help="decides the samples, and the part that --n takes")
    parser.add_argument("--batch-size", type=count, default=250, help="pictures at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    cut_arguments(parser)
    parser.add_argument("--table", action="store_true", help="instead: samplers over steps; resumable")
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[],
        metavar="CELL",
        help="--table: only these, such as S1000_sigma-hat (default: all)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/fid"), help="--table: folder of its pictures and fid.json"
    )
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="--table: arithmetic of the sampling"
    )
    parser.add_argument("--compile", action="store_true", help="--table: compile the network (needs a C++ compiler)")


def call(args: argparse.Namespace) -> int:
    """Measure and print."""
    from hw3utils.devices import resolve_device, together
    from hw3utils.fid import distance_of, feature_statistics, kid
    from hw3utils.learning.features import feature_extractor
    from hw3utils.datasets import open_set

    device = resolve_device(args.device)
    if args.table:
        with together(device) as device:
            return _table(args, device)
    if len(args.sets) != 2:
        raise ValueError(f"hw3 fid compares two sets of pictures, got {len(args.sets)}; see hw3 fid --help.")
    extractor = feature_extractor(args.extractor, inception_weights=args.inception_weights, device=device)
    options = {name: getattr(args, name) for name in ("n", "steps", "eta", "batch_size")}
    options["how"] = cut_of(args)
    if options["how"] and not any(Path(name).is_dir() for name in args.sets):
        raise ValueError("--size, --tile and what follows them cut the pictures of a folder, and no set is one.")
    sets = [open_set(name, seed=args.seed + i, device=device, **options) for i, name in enumerate(args.sets)]
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
    """Make what is missing of the table's pictures, measure them, and write the table."""
    import torch

    from hw3utils import load_pretrained, pretrained_card
    from hw3utils.bench import fid_table
    from hw3utils.devices import compiled, in_precision, process_count, process_rank
    from hw3utils.learning.features import feature_extractor
    from hw3utils.sprites import load_sprites

    if args.sets or args.extractor != "sprites":
        raise ValueError(
            "--table measures the shipped weights in sprites features; leave the sets and --extractor out."
        )
    if args.n not in (None, *fid_table.SIZES):
        sizes = ", ".join(map(str, fid_table.SIZES))
        raise ValueError(f"--n is {args.n}, expected for --table one of {sizes}.")
    cells = fid_table.cells_named(args.cells)
    network, schedule = load_pretrained("sprites", device=device)
    data = load_sprites()
    make = compiled if args.compile else in_precision
    plan = {
        "weights": pretrained_card("sprites")["sha256"],
        "precision": args.precision,
        "compiled": args.compile,
        "seed": args.seed,
        "shares": data.train_labels.mean(0).round(6).tolist(),
        "n": args.n or max(fid_table.SIZES),
    }
    model = make(network, args.precision)
    files = fid_table.make_pictures(model, schedule, plan, out=args.out, cells=cells, device=device)
    total = fid_table.n_files(plan, cells)
    try:
        for _ in progress(files, desc=f"pictures in {args.out}", unit="file", total=total):
            pass
    except KeyboardInterrupt:
        close_bars()
        print(f"stopped; the same command goes on with what is missing in {args.out}", file=sys.stderr)
        return 130
    if process_count() > 1:
        torch.distributed.barrier()
    if process_rank() > 0:
        return 0
    rows = dict(progress(fid_table.make_table(args.out, feature_extractor("sprites"), data), desc="measuring"))
    command = f"hw3 {' '.join(sys.argv[1:])}"
    path = fid_table.write_table(args.out / "fid.json", args.out, rows, data, command)
    print(fid_table.table_text(rows))
    print(f"{len(rows) - 1} of {len(fid_table.table_cells())} cells are complete; the numbers are in {path}")
    return 0
