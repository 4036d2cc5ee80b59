"""`hw3 sample`: make pictures with trained weights: fresh ones, one like another, between two, or a part of one."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw3utils.commands import count
from hw3utils.progress import progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

HELP = "make pictures with trained weights"
ENDS = (".png", ".gif", ".npz", "")
# Most frames of an animation, and steps where the sampler does not take all.
FRAMES, STEPS = 60, 50
RESAMPLINGS = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--weights", default="sprites", help="name of shipped weights, safetensors file, or its folder")
    parser.add_argument("--sampler", choices=["ddpm", "ddim", "dpm"], help="default: ddpm; --like, --between: ddim")
    parser.add_argument("--steps", type=count, help="network evaluations (default: T for ddpm, 50 for the others)")
    parser.add_argument("--eta", type=float, help="ddim only: 0 is deterministic (default), 1 is ancestral")
    parser.add_argument("--n", type=count, help="how many pictures (default: 50; --like, --between: 10)")
    parser.add_argument("--label", help="class, by name or number (default: none)")
    parser.add_argument("--guidance", type=float, help="strength of the class, needs --label (default 1)")
    parser.add_argument("--like", type=Path, metavar="PICTURE", help="from its noise, mixed with ever more fresh noise")
    parser.add_argument("--between", type=Path, nargs=2, metavar="PICTURE", help="from the one to the other")
    parser.add_argument(
        "--mask", type=Path, metavar="PICTURE", help="with --like: white is kept, the rest is made anew (inpainting)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=count, default=256, help="bounds the memory, not the pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--out",
        type=Path,
        nargs="+",
        default=[Path("out/samples.png")],
        help="one name or several: x.png the grid, x.gif the way from noise, x.npz the array, a folder single files",
    )


def call(args: argparse.Namespace) -> int:
    """Sample, and write what was asked for."""
    import torch

    from hw3utils import samplers
    from hw3utils.devices import resolve_device
    from hw3utils.learning.weights import load_weights
    from hw3utils.sprites import tensor_to_images
    from hw3utils.sprites.loading import picture_shape

    _check(args)
    device = resolve_device(args.device)
    network, schedule, card = load_weights(weights_path(args.weights), device=device)
    if schedule is None:
        raise ValueError(
            f"--weights {args.weights} holds a {type(network).__name__}, expected a noise predictor (UNet)."
        )
    label, shape = class_number(args.label, card, network.n_classes), picture_shape(card)
    guidance = 1.0 if args.guidance is None else args.guidance
    eps_model = network if label is None else samplers.guided(network, guidance=guidance)
    strided = args.between or args.like or args.sampler in ("ddim", "dpm")
    steps, evaluations = args.steps or (STEPS if strided else schedule.T), 0
    n = args.n or (10 if args.between or (args.like and not args.mask) else 50)
    batches = -(-n // args.batch_size)
    bar = progress(None, total=_total(args, steps, batches), desc="sampling")

    def counted(x: torch.Tensor, t: torch.Tensor, **labels: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        bar.update()
        return eps_model(x, t, **labels)

    options = {"n": n, "batch_size": args.batch_size, "seed": args.seed, "device": device, "steps": steps}
    options["model_kwargs"] = None if label is None else {"label": torch.full((n,), label)}
    pictures, frames, name = _make(args, counted, schedule, shape, options)
    bar.close()
    images = tensor_to_images(pictures)
    for out in args.out:
        write_pictures(images, frames, out)
    print(f"{n} pictures, {name}, {evaluations // batches} evaluations each: {', '.join(map(str, args.out))}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise on options that do not go together, and on names that nothing can be written under."""
    from hw3utils.files import check_writable

    if args.guidance is not None and args.label is None:
        raise ValueError("--guidance strengthens a class; give the class with --label as well.")
    if args.like and args.between:
        raise ValueError("--like and --between are two things; give one of them.")
    if args.mask and not args.like:
        raise ValueError("--mask says what is kept of a picture; name the picture with --like.")
    if args.mask and args.sampler not in (None, "ddpm"):
        raise ValueError(f"--mask fills in by ddpm with resampling, not by {args.sampler}; leave --sampler out.")
    if (args.between or (args.like and not args.mask)) and (args.sampler not in (None, "ddim") or args.eta):
        raise ValueError("--like and --between go to the noise and back by ddim with eta 0; leave the two out.")
    if args.eta is not None and args.sampler != "ddim":
        raise ValueError(f"--eta is an option of the ddim sampler, not of {args.sampler or 'ddpm'}; leave it out.")
    for out in args.out:
        if out.suffix.lower() not in ENDS:
            raise ValueError(f"--out is {out}, expected the name of a PNG, GIF or NPZ file, or of a folder.")
        if out.is_dir() and (out.suffix or any(out.iterdir())):
            raise ValueError(f"--out is {out}, a folder that is not empty; choose a PNG, GIF or NPZ file, or another.")
        check_writable(out.parent if out.suffix else out)


def _total(args: argparse.Namespace, steps: int, batches: int) -> int:
    """How many network evaluations there will be, for the bar."""
    if args.mask:
        return batches * (RESAMPLINGS * (steps - 1) + 1)
    # There and back: the way there takes two evaluations a step, with its correction.
    return batches * steps + 2 * steps * (2 if args.between else 1 if args.like else 0)


def _make(
    args: argparse.Namespace, eps_model: Callable[..., "Tensor"], schedule: Any, shape: tuple[int, ...], options: dict
) -> tuple["Tensor", list["np.ndarray"], str]:
    """The pictures, the frames of their way from noise, and the sampler's name."""
    from functools import partial

    from hw3utils import samplers
    from hw3utils.inpainting import inpaint_steps
    from hw3utils.noise import sample_in_batches

    name, extra = args.sampler or ("ddim" if args.between or args.like else "ddpm"), {}
    states = {"ddpm": samplers.ddpm_steps, "ddim": samplers.ddim_steps, "dpm": samplers.dpm_solver_steps}[name]
    if name == "ddim":
        extra["eta"] = args.eta or 0.0
    if args.mask:
        known, mask = read_picture(args.like, shape), read_picture(args.mask, (1, *shape[1:])) > 0
        states, name = partial(inpaint_steps, known=known, mask=mask), "ddpm with resampling"
        extra = {"n_resamplings": RESAMPLINGS}
    elif args.like or args.between:
        name = "ddim there and back"
        options["x_T"] = _start(args, eps_model, schedule, shape, options)
    show = any(out.suffix.lower() == ".gif" for out in args.out)
    recorder = Recorder(states, every=max(1, options["steps"] // FRAMES), show=show)
    made = sample_in_batches(recorder, eps_model, schedule, shape, **options, **extra)
    return made, recorder.frames(), name


def _start(
    args: argparse.Namespace,
    eps_model: Callable[..., "Tensor"],
    schedule: Any,
    shape: tuple[int, ...],
    options: dict,
) -> "Tensor":
    """The noises to start from: a picture's own mixed with fresh ones, or those between two pictures."""
    import torch

    from hw3utils.noise import gaussian_noise, sample_generators, slerp
    from hw3utils.samplers import ddim_invert

    n, device = options["n"], options["device"]
    labels = options["model_kwargs"] or {}

    def invert(path: Path) -> torch.Tensor:
        x0 = read_picture(path, shape)[None].to(device)
        own = {key: value[:1].to(device) for key, value in labels.items()}
        return ddim_invert(lambda x, t: eps_model(x, t, **own), x0, schedule, steps=options["steps"])

    weights = torch.linspace(0, 1, n)
    if args.between:
        first, last = map(invert, args.between)
        return slerp(first, last, weights)
    # Not the generators of the samples themselves, whose first draw is another start.
    fresh = gaussian_noise(torch.empty(n, *shape), sample_generators(options["seed"] + 1, range(n)))
    return slerp(invert(args.like), fresh.to(device), weights)


class Recorder:
    """A sampler made of its states, which keeps what a picture looked like on the way.

    Args:
        states: a function such as `ddim_steps`.
        every: keep one state of so many.
        show: keep any at all.
    """

    def __init__(self, states: Callable[..., Any], *, every: int, show: bool) -> None:
        self.states, self.every, self.show = states, every, show
        self.batches: list[list[np.ndarray]] = []

    def __call__(self, *args: Any, **options: Any) -> "Tensor":
        """Run to the last state and return its x."""
        from hw3utils.sprites import tensor_to_images

        kept: list[np.ndarray] = []
        for k, state in enumerate(self.states(*args, **options)):
            if self.show and (k % self.every == 0 or state.t == 0):
                kept.append(tensor_to_images(state.x))
        self.batches.append(kept)
        return state.x

    def frames(self) -> list["np.ndarray"]:
        """What was kept, uint8 (N, H, W, 3) each, of all batches together."""
        import numpy as np

        return [np.concatenate(parts) for parts in zip(*self.batches, strict=True)]


def write_pictures(images: "np.ndarray", frames: list["np.ndarray"], out: Path) -> None:
    """Write pictures uint8 (N, H, W, 3) as the name says: grid, animation, array, or a folder of single files."""
    from PIL import Image

    from hw3utils.files import write_atomically
    from hw3utils.plots import save_grid, save_moving_grid

    kind = out.suffix.lower()
    if kind == ".png":
        save_grid(images, out)
    elif kind == ".gif":
        save_moving_grid(frames, out)
    elif kind == ".npz":
        write_atomically(out, lambda path: _save_array(images, path))
    else:
        width = max(4, len(str(len(images) - 1)))
        for k, image in enumerate(images):
            file = out / f"{k:0{width}}.png"
            write_atomically(file, lambda path, image=image: Image.fromarray(image).save(path, "PNG"))


def _save_array(images: "np.ndarray", path: Path) -> None:
    """Through an open file: numpy would add its own ending to a temporary name."""
    import numpy as np

    with path.open("wb") as file:
        np.savez_compressed(file, images=images)


def read_picture(path: Path, shape: tuple[int, ...]) -> "Tensor":
    """A picture file as the network sees it, float32 of that shape in [-1, 1]; one of another size is made to fit.

    Raises:
        ValueError: when it cannot be read.
    """
    import torch

    from hw3utils.sprites import images_to_tensor
    from hw3utils.sprites.pictures import fitted, on_background, read_rgba

    rgb = images_to_tensor(on_background(fitted(read_rgba(path), shape[1]))[None])[0]
    if shape[0] == 3:
        return rgb
    return (rgb * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)


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
