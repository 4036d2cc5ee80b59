"""`hw3 sample`: make pictures with trained weights."""

import argparse
from pathlib import Path

from hw3utils.commands import check_png, count
from hw3utils.progress import progress

HELP = "make pictures with trained weights"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--weights", default="sprites", help="name of shipped weights, safetensors file, or its folder")
    parser.add_argument("--sampler", choices=["ddpm", "ddim", "dpm"], default="ddpm")
    parser.add_argument("--steps", type=count, help="network evaluations (default: T for ddpm, 50 for the others)")
    parser.add_argument("--eta", type=float, help="ddim only: 0 is deterministic (default), 1 is ancestral")
    parser.add_argument("--n", type=count, default=50, help="how many pictures")
    parser.add_argument("--label", help="class, by name or number (default: none)")
    parser.add_argument("--guidance", type=float, help="strength of the class, needs --label (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=count, default=256, help="bounds the memory, not the pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--out", type=Path, default=Path("out/samples.png"), help="the grid, a PNG file")


def call(args: argparse.Namespace) -> int:
    """Sample, and write the grid."""
    import torch

    from hw3utils import samplers
    from hw3utils.devices import resolve_device
    from hw3utils.learning.weights import load_weights
    from hw3utils.noise import sample_in_batches
    from hw3utils.plots import save_grid
    from hw3utils.sprites import tensor_to_images
    from hw3utils.sprites.loading import picture_shape

    if args.guidance is not None and args.label is None:
        raise ValueError("--guidance strengthens a class; give the class with --label as well.")
    if args.eta is not None and args.sampler != "ddim":
        raise ValueError(f"--eta is an option of the ddim sampler, not of {args.sampler}; leave it out.")
    check_png(args.out)
    device = resolve_device(args.device)
    network, schedule, card = load_weights(weights_path(args.weights), device=device)
    label = class_number(args.label, card, network.n_classes)
    guidance = 1.0 if args.guidance is None else args.guidance
    eps_model = network if label is None else samplers.guided(network, guidance=guidance)
    sampler, default_steps, options = {
        "ddpm": (samplers.sample_ddpm, schedule.T, {}),
        "ddim": (samplers.sample_ddim, 50, {"eta": args.eta or 0.0}),
        "dpm": (samplers.sample_dpm_solver, 50, {}),
    }[args.sampler]
    batches = -(-args.n // args.batch_size)
    evaluations = 0
    steps = args.steps or default_steps
    bar = iter(progress(range(steps * batches), desc="sampling"))

    def counted(x: torch.Tensor, t: torch.Tensor, **labels: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        next(bar, None)
        return eps_model(x, t, **labels)

    shape = picture_shape(network.config["channels"])
    options |= {"n": args.n, "batch_size": args.batch_size, "seed": args.seed, "device": device, "steps": steps}
    options["model_kwargs"] = None if label is None else {"label": torch.full((args.n,), label)}
    pictures = sample_in_batches(sampler, counted, schedule, shape, **options)
    next(bar, None)
    save_grid(tensor_to_images(pictures), args.out)
    print(f"{args.n} pictures, {args.sampler}, {evaluations // batches} evaluations each: {args.out}")
    return 0


def weights_path(name: str) -> Path:
    """The file or folder of weights that --weights names.

    Raises:
        ValueError: when there is none.
    """
    from hw3utils.learning.weights import pretrained_names, pretrained_path

    shipped = pretrained_names()
    if name in shipped:
        return pretrained_path(name)
    if not Path(name).exists():
        expected = f"a safetensors file, its folder, or one of {', '.join(shipped)}"
        raise ValueError(f"--weights is {name!r}, expected {expected}.")
    return Path(name)


def class_number(text: str | None, card: dict, n_classes: int) -> int | None:
    """The class that --label names, by its name on the card of the weights or by its number; None for none.

    Raises:
        ValueError: when there is no such class.
    """
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
