"""`hw3 train`: train the noise predictor, or the classifier, on sprites."""

import argparse
import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw3utils.commands import count, cut_arguments, cut_of, data_arguments, path
from hw3utils.progress import printable, progress

if TYPE_CHECKING:
    import torch

    from hw3utils.learning.training import Step, TrainConfig
    from hw3utils.watch import Watch

HELP = "train the noise predictor, or the classifier, on sprites"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--recipe",
        default="sprites",
        choices=["sprites", "classifier"],
        help="where all other defaults come from: the homework's run, or the classifier that FID is measured with",
    )
    parser.add_argument("--steps", type=count, help="optimizer steps (recipe: 50000)")
    parser.add_argument("--batch-size", type=count, help="pictures a step (recipe: 64)")
    parser.add_argument("--lr", type=float, help="learning rate (recipe: 0.0002)")
    parser.add_argument(
        "--lr-decay",
        action="store_true",
        default=None,
        help="let the rate fall to zero along half a cosine (recipe: no)",
    )
    parser.add_argument("--seed", type=int, help="decides first weights, data order and every draw (recipe: 0)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="arithmetic of the network (recipe: fp32)")
    parser.add_argument("--checkpoint-every", type=count, help="steps between checkpoints (recipe: 1000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--out",
        type=path,
        default=Path("out/train"),
        help="folder of checkpoints, weights, and index.html, the page to watch",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="hand the network to torch.compile, with CUDA graphs on CUDA; on a CPU in fp32 the first step takes about "
        "a minute, the others 0.84 times as long",
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write events for TensorBoard to the folder")
    data_arguments(parser)
    cut_arguments(parser)


def call(args: argparse.Namespace) -> int:
    """Train to the end, or until a signal (128 + its number); --resume goes on from there."""
    from hw3utils.devices import process_group, resolve_device, reuse_freed_memory
    from hw3utils.files import check_writable
    from hw3utils.learning.recipes import RESULTS
    from hw3utils.learning.run_files import check_new_run
    from hw3utils.watch import check_page, sample_files

    config = _config(args)
    device = resolve_device(args.device)
    samples = [str(file.relative_to(args.out)) for file in sample_files(args.out)]
    check_new_run(args.out, args.resume, results=[*RESULTS, *samples])
    check_page(args.out)
    check_writable(args.out)
    reuse_freed_memory()
    with process_group(device) as device:
        return _train(args, config, device)


def _config(args: argparse.Namespace) -> "TrainConfig":
    """The recipe's configuration with the options that were given."""
    from hw3utils.learning.classifier import CLASSIFIER
    from hw3utils.learning.recipes import RECIPES

    recipe = {**RECIPES, "classifier": CLASSIFIER}[args.recipe]
    names = [field.name for field in dataclasses.fields(recipe)]
    config = dataclasses.replace(recipe, **{name: v for name in names if (v := getattr(args, name, None)) is not None})
    if args.recipe == "classifier" and (args.source != "embedded" or args.root is not None or cut_of(args)):
        raise ValueError(
            "the classifier learns the attributes of the embedded sprites; leave --source, --root and --size out."
        )
    return config


class StopRequest:
    """Whether a run should end after its present step, and with which exit code."""

    def __init__(self) -> None:
        self.code = 0

    def print(self, text: str) -> None:
        """Print a line on rank 0; a closed output requests the end of the run."""
        from hw3utils.devices import process_rank

        if process_rank() > 0:
            return
        try:
            print(text, flush=True)
        except OSError:
            self.code = 128 + 13  # SIGPIPE

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first Ctrl-C, SIGTERM or SIGHUP request the end of the run; a second one acts as usual."""
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        if threading.current_thread() is not threading.main_thread():
            names = []  # only the main thread can handle signals
        before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}

        def request(number: int, frame: Any) -> None:
            self.code = 128 + number
            signal.signal(number, before[number] or signal.SIG_DFL)

        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def agreed(self, device: "torch.device") -> bool:
        """Whether any process of the group should end, so that all of them stop after the same step."""
        from hw3utils.devices import process_count

        if process_count() == 1:
            return self.code > 0
        import torch

        code = torch.tensor(self.code, device=device)
        torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
        self.code = int(code)
        return self.code > 0


def _train(args: argparse.Namespace, config: "TrainConfig", device: "torch.device") -> int:
    """Load the data and train; rank 0 prints."""
    from hw3utils.datasets import attribute_data
    from hw3utils.devices import process_rank
    from hw3utils.learning.classifier import train_classifier
    from hw3utils.learning.recipes import train_sprites
    from hw3utils.learning.run_files import POINTER
    from hw3utils.sprites import load_sprites
    from hw3utils.watch import PAGE

    stop = StopRequest()
    if args.resume and not (args.out / POINTER).exists():
        # A run killed before its first checkpoint begins again.
        stop.print(f"no checkpoint in {args.out} yet: beginning at step 0")
    stop.print("loading the sprites")
    options: dict[str, Any] = {"out": args.out, "device": device, "resume": args.resume, "compile": args.compile}
    side = None
    if args.recipe == "classifier":
        steps = train_classifier(attribute_data(), config, **options)
    else:
        data = load_sprites(args.source, root=args.root, cut=cut_of(args))
        stop.print(f"data: {data.source}, {len(data.train_images)} pictures to train on")
        steps, side = train_sprites(data, config, **options), data.side
    watch = _watch(args, config, side) if process_rank() == 0 else None
    stop.print(
        f"{config.steps} steps of {config.batch_size} on {device}, {config.precision}; writing to {args.out}, "
        f"watch it on {args.out / PAGE}"
    )
    with stop.on_signals():
        finished = _run_steps(steps, config, device, watch, stop, args.out)
    if not finished:
        if process_rank() == 0:
            print(printable(f"stopped; {_saved(args.out)}"), file=sys.stderr)
        return stop.code
    stop.print(f"weights and their card are in {args.out / 'weights.safetensors'}")
    return 0


def _saved(out: Path) -> str:
    """The step that is saved and how to go on from it."""
    from hw3utils.files import read_json
    from hw3utils.learning.run_files import POINTER

    if not (out / POINTER).exists():
        return f"no step is saved in {out}"
    return f"step {read_json(out / POINTER)['step']} is saved in {out}, go on with the same command and --resume"


def _watch(args: argparse.Namespace, config: "TrainConfig", side: int | None) -> "Watch":
    """The page of the run, with the history of the checkpoint when it is resumed."""
    from hw3utils.learning.run_files import POINTER, read_history
    from hw3utils.watch import Watch

    history = read_history(args.out)[:2] if args.resume and (args.out / POINTER).exists() else ((), ())
    return Watch(args.out, config, history=history, side=side, tensorboard=args.tensorboard)


def _run_steps(
    steps: "Generator[Step]",
    config: "TrainConfig",
    device: "torch.device",
    watch: "Watch | None",
    stop: StopRequest,
    out: Path,
) -> bool:
    """Run the steps behind a progress bar; False when a request ended them. In every case the run is saved."""
    display, done = Display(config), 0
    try:
        with contextlib.closing(steps), display:
            for step in steps:
                done = step.step
                _update_page(watch, step)
                if not display.update(step):
                    stop.code = 128 + 13
                if stop.agreed(device) and done < config.steps:
                    break
            else:
                return True
    except BaseException as error:
        if done:  # else the folder may belong to another training
            _write_last_page(watch)
            if isinstance(error, ValueError | OSError):
                raise OSError(f"{str(error).rstrip('.')}; {_saved(out)}") from error
        raise
    _write_last_page(watch)
    return False


class Display:
    """The progress bar of a run, on rank 0."""

    def __init__(self, config: "TrainConfig") -> None:
        self.config, self.average = config, 0.0
        self.bar: Any = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self.bar is not None:
                self.bar.close()

    def update(self, step: "Step") -> bool:
        """Show a step; False when the output is closed."""
        from hw3utils.devices import process_rank

        try:
            if self.bar is None:
                self.average, show = step.loss, process_rank() == 0
                self.bar = progress(None, total=self.config.steps, initial=step.step - 1, desc="training", show=show)
            self.average = 0.98 * self.average + 0.02 * step.loss
            self.bar.set_postfix(loss=f"{self.average:.4f}", refresh=False)
            self.bar.update()
            every = 10 * self.config.heldout_every
            if step.heldout is not None and not self.bar.disable and step.step % every == 0:
                self.bar.write(f"step {step.step}: held-out loss {step.heldout:.4f}")
        except OSError:
            return False
        return True


def _update_page(watch: "Watch | None", step: "Step") -> None:
    """Add a step to the page; any error there becomes one sentence."""
    if watch is None:
        return
    try:
        watch.update(step)
    except Exception as error:
        raise OSError(f"the page in {watch.out} cannot be written: {error}") from error


def _write_last_page(watch: "Watch | None") -> None:
    """Write on the page that the run has ended; that it cannot be written must not hide why the run ended."""
    with contextlib.suppress(Exception):
        if watch:
            watch.write(stopped=True)
