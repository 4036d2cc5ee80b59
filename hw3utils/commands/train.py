"""The command line: hw3 run | train | sample | fid | data | bench | release | grade."""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hw3utils import __version__
from hw3utils.course.profiles import PROFILES, current_profile
from hw3utils.progress import close_bars, progress

if TYPE_CHECKING:
    import torch


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        default="embedded",
        help="embedded (sprites drawn by our generator), real (the course's files), or a folder of PNG pictures",
    )
    parser.add_argument("--root", type=Path, help="folder of the real files (default: the cache, else a download)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hw3", description="Diffusion and score-based models, six notebooks and their helper package."
    )
    parser.add_argument("--version", action="version", version=f"hw3utils {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="execute the notebooks in number order")
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path (default: all)")
    run.add_argument("--profile", choices=["quick", "full"], help="sizes (default: $HW3_PROFILE, else quick)")
    run.add_argument("--out", type=Path, default=Path("out"), help="folder of executed copies, HTML and figures")
    run.add_argument("--update", action="store_true", help="replace the committed notebooks and figures too")
    run.set_defaults(call=_run)

    train = commands.add_parser("train", help="train the noise predictor, or the classifier, on sprites")
    train.add_argument(
        "--recipe",
        default="sprites",
        choices=["sprites", "classifier"],
        help="where all other defaults come from: the homework's run, or the classifier that FID is measured with",
    )
    train.add_argument("--steps", type=_count, help="optimizer steps (recipe: 50000)")
    train.add_argument("--batch-size", type=_count, help="pictures a step (recipe: 64)")
    train.add_argument("--lr", type=float, help="learning rate (recipe: 0.0002)")
    train.add_argument(
        "--lr-decay",
        action="store_true",
        default=None,
        help="let the rate fall to zero along half a cosine (recipe: no)",
    )
    train.add_argument("--seed", type=int, help="decides first weights, data order and every draw (recipe: 0)")
    train.add_argument("--precision", choices=["fp32", "bf16"], help="arithmetic of the network (recipe: fp32)")
    train.add_argument("--checkpoint-every", type=_count, help="steps between checkpoints (recipe: 1000)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    train.add_argument("--out", type=Path, default=Path("out/train"), help="folder of checkpoints and weights")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    train.add_argument("--capture", action="store_true", help="CUDA only: replay each step as one graph")
    _data_arguments(train)
    train.set_defaults(call=_train)

    sample = commands.add_parser("sample", help="make pictures with trained weights")
    sample.add_argument("--weights", default="sprites", help="name of shipped weights, safetensors file, or its folder")
    sample.add_argument("--sampler", choices=["ddpm", "ddim", "dpm"], default="ddpm")
    sample.add_argument("--steps", type=_count, help="network evaluations (default: T for ddpm, 50 for the others)")
    sample.add_argument("--eta", type=float, help="ddim only: 0 is deterministic (default), 1 is ancestral")
    sample.add_argument("--n", type=_count, default=50, help="how many pictures")
    sample.add_argument("--label", help="class, by name or number (default: none)")
    sample.add_argument("--guidance", type=float, help="strength of the class, needs --label (default 1)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--batch-size", type=_count, default=256, help="bounds the memory, not the pictures")
    sample.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sample.add_argument("--out", type=Path, default=Path("out/samples.png"), help="the grid, a PNG file")
    sample.set_defaults(call=_sample)

    fid = commands.add_parser("fid", help="measure the Frechet distance of two sets of pictures")
    fid.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help="two of: a folder of PNG pictures, an .npy array uint8 (N, H, W, 3), weights (a file, its folder, or "
        "the name of shipped ones), embedded:train, embedded:test",
    )
    fid.add_argument("--extractor", default="sprites", help="features to measure in: sprites (shipped) or inception")
    fid.add_argument("--inception-weights", type=Path, metavar="FILE", help="weights of the Inception network")
    fid.add_argument("--n", type=_count, help="most pictures of each set (default: all; 5000 samples of weights)")
    fid.add_argument("--kid", action="store_true", help="also the kernel distance, with its standard error")
    fid.add_argument("--steps", type=_count, default=50, help="weights: steps of DDIM")
    fid.add_argument("--eta", type=float, default=0.0, help="weights: eta of DDIM")
    fid.add_argument("--seed", type=int, default=0, help="weights: decides the samples")
    fid.add_argument("--batch-size", type=_count, default=250, help="pictures at once")
    fid.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    fid.add_argument("--table", action="store_true", help="instead: DDPM against DDIM over steps and eta, resumable")
    fid.add_argument("--out", type=Path, default=Path("out/fid"), help="--table: folder of its pictures and fid.json")
    fid.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="--table: arithmetic of the sampling"
    )
    fid.add_argument("--compile", action="store_true", help="--table: compile the network (needs a C++ compiler)")
    fid.add_argument("--n-1000", type=_count, default=5000, help="--table: pictures of each cell of 1000 steps")
    fid.add_argument(
        "--share", default="1/1", metavar="K/M", help="--table: make every M-th file only, from the K-th on"
    )
    fid.set_defaults(call=_fid)

    data = commands.add_parser("data", help="show and fetch the sprites")
    _data_arguments(data)
    data.add_argument("--preview", action="store_true", help="write a labelled picture of each class")
    data.add_argument("--out", type=Path, default=Path("out/sprites.png"), help="where --preview writes, a PNG file")
    data.set_defaults(call=_data)
    bench = commands.add_parser("bench", help="measure our steps beside those of others")
    bench.add_argument("parts", nargs="*", metavar="PART", help="train, sample, score, fid (default: all)")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    bench.add_argument("--threads", type=_count, help="CPU threads of the wall times (default: all)")
    bench.add_argument("--rounds", type=_count, default=11, help="measurements of each contender, taken in turn")
    bench.add_argument("--batch-size", type=_count, default=64, help="train: pictures a step")
    bench.add_argument("--nfe", type=_count, default=5, help="sample: evaluations of the network in one run")
    bench.add_argument("--growth", action="store_true", help="train, sample: memory and time as the work grows")
    bench.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes fresh processes")
    bench.add_argument("--no-compile", action="store_true", help="sample: leave our compiled network out")
    bench.add_argument("--to-loss", action="store_true", help="the race to the course network's loss at step 1000")
    bench.add_argument("--json", type=Path, help="also write the numbers to this file")
    bench.set_defaults(call=_bench)
    release = commands.add_parser("release", help="make the student edition of the notebooks (needs nbgrader)")
    release.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="number, name or path (default: all)")
    release.add_argument("--out", type=Path, default=Path("out/release"), help="folder of the edition")
    release.set_defaults(call=_release)

    grade = commands.add_parser(
        "grade",
        help="grade submissions (needs nbgrader)",
        description="Grade submissions. This EXECUTES THE STUDENTS' CODE, with this Python and the rights of this "
        "user: use a machine or a container that has nothing to lose.",
    )
    grade.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="folder of notebooks, or one")
    grade.add_argument("--out", type=Path, default=Path("out/grades"), help="folder of the reports")
    grade.add_argument("--timeout", type=_count, default=600, help="seconds that a cell may take")
    grade.add_argument("--profile", choices=list(PROFILES), help="sizes (default: $HW3_PROFILE, else quick)")
    grade.add_argument("--seed", type=int, help="decides the checks' random input (default: drawn, and reported)")
    grade.set_defaults(call=_grade)
    return parser


def _bench(arguments: argparse.Namespace) -> int:
    from hw3utils.devices import resolve_device
    from hw3utils.files import check_writable, write_json

    unknown = [part for part in arguments.parts if part not in bench.PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r} to measure, expected {', '.join(bench.PARTS)}.")
    if arguments.nfe > 1000:
        raise ValueError(f"--nfe is {arguments.nfe}, expected at most the 1000 steps of the schedule.")
    device = resolve_device(arguments.device)
    if arguments.json is not None:
        check_writable(arguments.json.parent)
    options = bench.Options(
        rounds=arguments.rounds,
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        nfe=arguments.nfe,
        growth=arguments.growth,
        memory=not arguments.no_memory,
        compile=not arguments.no_compile,
    )
    results = {"machine": bench.machine(device), "options": dataclasses.asdict(options)}
    for part in arguments.parts or ([] if arguments.to_loss else bench.PARTS):
        result = bench.PARTS[part](device, options)
        print(bench.report(part, result, device), end="\n\n", flush=True)
        results[part] = bench.as_json(result)
    if arguments.to_loss:
        race = bench.bench_to_loss(device, options)
        print(bench.report_race(race), flush=True)
        results["to loss"] = race
    if arguments.json is not None:
        write_json(arguments.json, results)
        print(f"the numbers are in {arguments.json}")
    return 0


def _release(args: argparse.Namespace) -> int:
    from hw3utils.course.grade import release

    written = release(args.out, args.notebooks)
    print(f"{len(written)} notebooks of the student edition are in {args.out}")
    return 0


def _grade(args: argparse.Namespace) -> int:
    from hw3utils.course.grade import grade, summary

    profile = args.profile or current_profile().name
    results = grade(args.submissions, args.out, timeout=args.timeout, profile=profile, seed=args.seed)
    for result in results:
        print(summary(result))
    print(f"reports are in {args.out}: grades.csv, and for each student report.json and one page a notebook")
    return 1 if any(result.problems for result in results) else 0


def _run(arguments: argparse.Namespace) -> int:
    from hw3utils.course.profiles import current_profile
    from hw3utils.course.runner import run_notebooks

    outcomes = run_notebooks(
        arguments.notebooks,
        profile=arguments.profile or current_profile().name,
        out=arguments.out,
        update=arguments.update,
    )
    return 1 if any(outcome.error for outcome in outcomes) else 0


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C in a list, so that a loop stops between two steps with its state whole."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from hw3utils.devices import resolve_device
    from hw3utils.files import check_writable, read_json
    from hw3utils.learning.classifier import CLASSIFIER, train_classifier
    from hw3utils.learning.recipes import RECIPES, is_main_process, process_count, train_sprites
    from hw3utils.learning.run_files import POINTER
    from hw3utils.sprites import load_sprites

    recipe = {**RECIPES, "classifier": CLASSIFIER}[arguments.recipe]
    names = [field.name for field in dataclasses.fields(recipe)]
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    config = dataclasses.replace(recipe, **given)
    if arguments.recipe == "classifier" and (arguments.source != "embedded" or arguments.root is not None):
        raise ValueError("the classifier learns the attributes of the embedded sprites; leave --source and --root out.")
    device = resolve_device(arguments.device)
    pointer = arguments.out / POINTER
    if not arguments.resume and pointer.exists():
        raise ValueError(f"{arguments.out} already holds a checkpoint; add --resume or choose another --out.")
    check_writable(arguments.out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    say = print if is_main_process() else lambda *_, **__: None
    try:
        if arguments.resume and not pointer.exists():
            # A run killed before its first checkpoint is resumed from its beginning.
            say(f"no checkpoint in {arguments.out} yet: beginning at step 0")
        say("loading the sprites", flush=True)
        options = {
            "out": arguments.out,
            "device": device,
            "resume": arguments.resume,
            "capture": arguments.capture,
        }
        if arguments.recipe == "classifier":
            steps = train_classifier(config, **options)
        else:
            data = load_sprites(arguments.source, root=arguments.root)
            say(f"data: {data.source}, {len(data.train_images)} pictures to train on")
            steps = train_sprites(data, config, **options)
        say(
            f"{config.steps} steps of {config.batch_size} on {device}, {config.precision}; writing to {arguments.out}",
            flush=True,
        )
        bar, shown = None, 0.0
        with _interruptible() as caught:
            for step in steps:
                if bar is None:
                    bar = progress(
                        None, total=config.steps, initial=step.step - 1, desc="training", show=is_main_process()
                    )
                shown = step.loss if shown == 0 else 0.98 * shown + 0.02 * step.loss
                bar.set_postfix(loss=f"{shown:.4f}", refresh=False)
                bar.update()
                if step.heldout is not None and not bar.disable and step.step % (10 * config.heldout_every) == 0:
                    bar.write(f"step {step.step}: held-out loss {step.heldout:.4f}")
                if _any_process(bool(caught), process_count(), device):
                    steps.close()
                    bar.close()
                    if is_main_process():
                        print(
                            f"stopped; step {read_json(pointer)['step']} is saved in {arguments.out}, "
                            "go on with the same command and --resume",
                            file=sys.stderr,
                        )
                    return 130
        if bar is not None:
            bar.close()
        say(f"weights and their card are in {arguments.out / 'weights.safetensors'}")
    finally:
        if process_count() > 1:
            torch.distributed.destroy_process_group()
    return 0


def _any_process(flag: bool, processes: int, device: "torch.device") -> bool:
    """Whether a flag is up in any process, so that all of them stop after the same step."""
    if processes == 1:
        return flag
    import torch

    flags = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)


def _sample(arguments: argparse.Namespace) -> int:
    import torch

    from hw3utils import samplers
    from hw3utils.devices import resolve_device
    from hw3utils.learning.weights import load_weights, pretrained_names, pretrained_path
    from hw3utils.plots import save_grid
    from hw3utils.samplers import guided
    from hw3utils.sprites import tensor_to_images

    if arguments.guidance is not None and arguments.label is None:
        raise ValueError("--guidance strengthens a class; give the class with --label as well.")
    if arguments.eta is not None and arguments.sampler != "ddim":
        raise ValueError(f"--eta is an option of the ddim sampler, not of {arguments.sampler}; leave it out.")
    _check_png(arguments.out)
    device = resolve_device(arguments.device)
    shipped = pretrained_names()
    if arguments.weights not in shipped and not Path(arguments.weights).exists():
        expected = f"a safetensors file, its folder, or one of {', '.join(shipped)}"
        raise ValueError(f"--weights is {arguments.weights!r}, expected {expected}.")
    path = pretrained_path(arguments.weights) if arguments.weights in shipped else arguments.weights
    network, schedule, card = load_weights(path, device=device)
    label = _label(arguments.label, card, network.n_classes)
    eps_model = (
        network
        if label is None
        else guided(network, guidance=1.0 if arguments.guidance is None else arguments.guidance)
    )
    sampler, default_steps, options = {
        "ddpm": (samplers.sample_ddpm, schedule.T, {}),
        "ddim": (samplers.sample_ddim, 50, {"eta": arguments.eta or 0.0}),
        "dpm": (samplers.sample_dpm_solver, 50, {}),
    }[arguments.sampler]
    steps = arguments.steps or default_steps
    n, evaluations = arguments.n, 0
    batches = -(-n // arguments.batch_size)
    bar = iter(progress(range(steps * batches), desc="sampling"))

    def counted(x: torch.Tensor, t: torch.Tensor, **labels: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        next(bar, None)
        return eps_model(x, t, **labels)

    pictures = samplers.sample_in_batches(
        sampler,
        counted,
        schedule,
        (network.config["channels"], 16, 16),
        n=n,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        device=device,
        steps=steps,
        model_kwargs=None if label is None else {"label": torch.full((n,), label)},
        **options,
    )
    next(bar, None)
    save_grid(tensor_to_images(pictures), arguments.out)
    print(f"{n} pictures, {arguments.sampler}, {evaluations // batches} evaluations each: {arguments.out}")
    return 0


def _fid(arguments: argparse.Namespace) -> int:
    from hw3utils.devices import resolve_device
    from hw3utils.fid import distance_of, feature_statistics, kid
    from hw3utils.learning.features import feature_extractor
    from hw3utils.sprites.sets import open_set

    device = resolve_device(arguments.device)
    if arguments.table:
        return _fid_table(arguments, device)
    if len(arguments.sets) != 2:
        raise ValueError(f"hw3 fid compares two sets of pictures, got {len(arguments.sets)}; see hw3 fid --help.")
    extractor = feature_extractor(arguments.extractor, inception_weights=arguments.inception_weights, device=device)
    options = {name: getattr(arguments, name) for name in ("n", "steps", "eta", "batch_size")}
    sets = [open_set(name, seed=arguments.seed + i, device=device, **options) for i, name in enumerate(arguments.sets)]
    statistics = [
        feature_statistics(progress(pictures, desc=pictures.description, unit="batch"), extractor) for pictures in sets
    ]
    counts = [part.n for part in statistics]
    print(f"FID {distance_of(*statistics):.4f}, {extractor.num_features} {extractor.name} features")
    if arguments.kid:
        if min(counts) < 4:
            raise ValueError(f"--kid got a set of {min(counts)} pictures, expected at least 4.")
        passes = (progress(part, desc=part.description, unit="batch") for part in sets)
        value, error = kid(*passes, extractor=extractor, subset_size=min(500, min(counts) // 2))
        print(f"KID {value:.6f} +- {error:.6f} (standard error over disjoint subsets)")
    for label, part, count in zip("AB", sets, counts, strict=True):
        print(f"{label}: {count} pictures, {part.description}")
    if min(counts) <= extractor.num_features:
        print(f"note: with {min(counts)} pictures for {extractor.num_features} features the FID is far too large.")
    return 0


def _fid_table(arguments: argparse.Namespace, device: "torch.device") -> int:
    from hw3utils import load_pretrained, pretrained_card
    from hw3utils.devices import compiled, in_precision
    from hw3utils.learning.features import feature_extractor
    from hw3utils.sprites import load_sprites

    if arguments.sets or arguments.extractor != "sprites":
        raise ValueError(
            "--table measures the shipped weights in sprites features; leave the sets and --extractor out."
        )
    try:
        share = tuple(int(number) for number in arguments.share.split("/"))
    except ValueError:
        share = ()
    if len(share) != 2:
        raise ValueError(f"--share is {arguments.share!r}, expected K/M, such as 1/2.")
    network, schedule = load_pretrained("sprites", device=device)
    make = compiled if arguments.compile else in_precision
    plan = {
        "weights": pretrained_card("sprites")["sha256"],
        "precision": arguments.precision,
        "compiled": arguments.compile,
        "seed": arguments.seed,
        "n": arguments.n or 10_000,
        "n_1000": arguments.n_1000,
    }
    files = sweep.make_pictures(
        make(network, arguments.precision), schedule, plan, out=arguments.out, share=share, device=device
    )
    try:
        for _ in progress(files, desc=f"pictures in {arguments.out}", unit="file", total=sweep.n_files(plan, share)):
            pass
    except KeyboardInterrupt:
        close_bars()
        print(f"stopped; the same command goes on with what is missing in {arguments.out}", file=sys.stderr)
        return 130
    data = load_sprites()
    rows = {}
    for name, row in progress(sweep.make_table(arguments.out, feature_extractor("sprites"), data), desc="measuring"):
        rows[name] = row
    path = sweep.write_table(arguments.out / "fid.json", arguments.out, rows, data, f"hw3 {' '.join(sys.argv[1:])}")
    print(sweep.table_text(rows))
    print(f"{len(rows) - 1} of {len(sweep.table_cells())} cells are complete; the numbers are in {path}")
    return 0


def _label(text: str | None, card: dict, n_classes: int) -> int | None:
    """The class of a name or number."""
    if text is None:
        return None
    data = card.get("data")
    names = data.get("class_names", []) if isinstance(data, dict) else []
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < n_classes:
        return int(text)
    known = f" or one of {', '.join(names)}" if names else ""
    raise ValueError(f"--label is {text!r}, expected 0..{n_classes - 1}{known}.")


def _check_png(path: Path) -> None:
    """Raise unless a PNG file can be written there, before the work that ends in it."""
    from hw3utils.files import check_writable

    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"--out is {path}, expected the name of a PNG file.")
    check_writable(path.parent)


def _data(arguments: argparse.Namespace) -> int:
    from hw3utils.files import write_atomically
    from hw3utils.sprites import describe, load_sprites, preview

    if arguments.preview:
        _check_png(arguments.out)
    data = load_sprites(arguments.source, root=arguments.root)
    print(describe(data))
    if arguments.preview:
        write_atomically(arguments.out, lambda temporary: preview(data, temporary))
        print(f"a labelled picture of each class is in {arguments.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input is one sentence on stderr and exit code 2, Ctrl-C is 130."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.call(parsed)
    except KeyboardInterrupt:
        close_bars()
        out = getattr(parsed, "out", None)
        where = f" and in {out}" if out is not None and out.exists() else ""
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
