"""`hw3 train`: train the noise predictor, or the classifier, on sprites."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hw3utils.commands import count, cut_arguments, cut_of, data_arguments
from hw3utils.progress import progress

if TYPE_CHECKING:
    import torch

    from hw3utils.learning.training import Step, TrainConfig
    from hw3utils.watch import Watch

HELP = "train the noise predictor, or the classifier, on sprites"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
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
        type=Path,
        default=Path("out/train"),
        help="folder of checkpoints, weights, and index.html, the page to watch",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    parser.add_argument("--capture", action="store_true", help="CUDA only: replay each step as one graph")
    parser.add_argument("--tensorboard", action="store_true", help="also write events for TensorBoard to the folder")
    data_arguments(parser)
    cut_arguments(parser)


def call(args: argparse.Namespace) -> int:
    """Train to the end, or to Ctrl-C (130), after which --resume goes on."""

    from hw3utils.devices import resolve_device, together
    from hw3utils.files import check_writable
    from hw3utils.learning.run_files import POINTER

    config = _config(args)
    device = resolve_device(args.device)
    if not args.resume and (args.out / POINTER).exists():
        raise ValueError(f"{args.out} already holds a checkpoint; add --resume or choose another --out.")
    check_writable(args.out)
    with together(device) as device:
        return _train(args, config, device)


def _config(args: argparse.Namespace) -> "TrainConfig":
    """The recipe's configuration with what was asked for otherwise."""
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


def _train(args: argparse.Namespace, config: "TrainConfig", device: "torch.device") -> int:
    """Load the data and train; the process that writes the files says how it goes."""
    from hw3utils.devices import process_rank
    from hw3utils.files import read_json
    from hw3utils.learning.classifier import train_classifier
    from hw3utils.learning.recipes import train_sprites
    from hw3utils.learning.run_files import POINTER
    from hw3utils.sprites import load_sprites
    from hw3utils.watch import PAGE

    say = print if process_rank() == 0 else lambda *_, **__: None
    pointer = args.out / POINTER
    if args.resume and not pointer.exists():
        # A run killed before its first checkpoint is resumed from its beginning.
        say(f"no checkpoint in {args.out} yet: beginning at step 0")
    say("loading the sprites", flush=True)
    options = {"out": args.out, "device": device, "resume": args.resume, "capture": args.capture}
    side = None
    if args.recipe == "classifier":
        steps = train_classifier(config, **options)
    else:
        data = load_sprites(args.source, root=args.root, how=cut_of(args))
        say(f"data: {data.source}, {len(data.train_images)} pictures to train on")
        steps = train_sprites(data, config, **options)
        side = data.side
    watch = _watch(args, config, side) if process_rank() == 0 else None
    say(
        f"{config.steps} steps of {config.batch_size} on {device}, {config.precision}; writing to {args.out}, "
        f"watch it on {args.out / PAGE}",
        flush=True,
    )
    if not _go_through(steps, config, device, watch):
        if process_rank() == 0:
            print(
                f"stopped; step {read_json(pointer)['step']} is saved in {args.out}, "
                "go on with the same command and --resume",
                file=sys.stderr,
            )
        return 130
    say(f"weights and their card are in {args.out / 'weights.safetensors'}")
    return 0


def _watch(args: argparse.Namespace, config: "TrainConfig", side: int | None) -> "Watch":
    """The page of the run; of one that goes on, with what its checkpoint has."""
    from hw3utils.learning.run_files import POINTER, read_history
    from hw3utils.watch import Watch

    history = read_history(args.out)[:2] if args.resume and (args.out / POINTER).exists() else ((), ())
    return Watch(args.out, config, history=history, side=side, tensorboard=args.tensorboard)


def _go_through(steps: "Iterator[Step]", config: "TrainConfig", device: "torch.device", watch: "Watch | None") -> bool:
    """Go through the steps behind a progress bar; False when Ctrl-C ended them, with the run saved."""
    from hw3utils.devices import process_count, process_rank

    bar, smoothed = None, 0.0
    with _interruptible() as caught:
        for step in steps:
            if bar is None:
                bar = progress(
                    None, total=config.steps, initial=step.step - 1, desc="training", show=process_rank() == 0
                )
            if watch:
                watch.see(step)
            smoothed = step.loss if smoothed == 0 else 0.98 * smoothed + 0.02 * step.loss
            bar.set_postfix(loss=f"{smoothed:.4f}", refresh=False)
            bar.update()
            if step.heldout is not None and not bar.disable and step.step % (10 * config.heldout_every) == 0:
                bar.write(f"step {step.step}: held-out loss {step.heldout:.4f}")
            if _any_process(bool(caught), process_count(), device):
                steps.close()
                bar.close()
                if watch:
                    watch.write(stopped=True)
                return False
    if bar is not None:
        bar.close()
    return True


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C in a list, so that a loop stops between two steps with its state whole."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _any_process(flag: bool, processes: int, device: "torch.device") -> bool:
    """Whether a flag is up in any process, so that all of them stop after the same step."""
    if processes == 1:
        return flag
    import torch

    flags = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)
