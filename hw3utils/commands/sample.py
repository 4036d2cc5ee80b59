"""`hw3 sample`: sample pictures with trained weights, also near a picture, between two, or inside a mask."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hw3utils.commands import count, name_or_path, path, refuse_unused
from hw3utils.progress import printable, progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

HELP = "sample pictures with trained weights"
SUFFIXES = (".png", ".gif", ".npz", "")
# Most frames of an animation, and the default steps of ddim and dpm.
FRAMES, STEPS = 60, 50
RESAMPLINGS = 10
OUT = Path("out/samples.png")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--weights",
        type=name_or_path,
        default="sprites-tuned",
        help="name of shipped weights (default: sprites-tuned; the homework's run: sprites), file, or its folder",
    )
    parser.add_argument("--sampler", choices=["ddpm", "ddim", "dpm"], help="default: ddpm; --like, --between: ddim")
    parser.add_argument("--steps", type=count, help="network evaluations (default: T for ddpm, 50 for the others)")
    parser.add_argument("--eta", type=float, help="ddim only: 0 is deterministic (default), 1 is ancestral")
    parser.add_argument("--n", type=count, help="how many pictures (default: 50; --like, --between: 10)")
    parser.add_argument("--label", help="class, by name or number (default: none)")
    parser.add_argument("--guidance", type=float, help="strength of the class, needs --label (default 1)")
    parser.add_argument("--like", type=path, metavar="PICTURE", help="from its noise, mixed with ever more fresh noise")
    parser.add_argument("--between", type=path, nargs=2, metavar="PICTURE", help="from the one to the other")
    parser.add_argument(
        "--mask",
        type=path,
        metavar="PICTURE",
        help="with --like: white is kept; black and transparent parts are sampled anew (inpainting)",
    )
    parser.add_argument("--seed", type=int, help="decides the noise (default: 0)")
    parser.add_argument("--batch-size", type=count, default=256, help="bounds the memory, not the pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--out",
        type=path,
        nargs="+",
        action="extend",
        help="one name or several: x.png the grid, x.gif an animation from the noise on, x.npz the array, a folder "
        f"single files (default: {OUT})",
    )


def call(args: argparse.Namespace) -> int:
    """Sample, and write the pictures."""
    import torch

    from hw3utils import samplers
    from hw3utils.datasets import picture_background, picture_shape
    from hw3utils.devices import resolve_device, reuse_freed_memory
    from hw3utils.learning.weights import load_weights
    from hw3utils.sprites import tensor_to_images

    args.out, args.seed = args.out or [OUT], _seed(args)
    _check(args)
    device = resolve_device(args.device)
    network, schedule, card = load_weights(weights_path(args.weights), device=device)
    if schedule is None:
        raise ValueError(
            f"--weights {args.weights} holds a {type(network).__name__}, expected a noise predictor (UNet)."
        )
    label, shape = class_number(args.label, card, cast(int, network.n_classes)), picture_shape(card)
    inputs = read_inputs(args, shape, picture_background(card))
    guidance = 1.0 if args.guidance is None else args.guidance
    eps_model: Callable[..., Tensor] = network if label is None else samplers.guided(network, guidance=guidance)
    strided = args.between or args.like or args.sampler in ("ddim", "dpm")
    steps, evaluations = args.steps or (STEPS if strided else schedule.T), 0
    n = args.n or (10 if args.between or (args.like and not args.mask) else 50)
    batches = -(-n // args.batch_size)
    reuse_freed_memory()
    bar = progress(None, total=_total(args, steps, batches), desc="sampling")

    def counted(x: torch.Tensor, t: torch.Tensor, **labels: torch.Tensor) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        bar.update()
        return eps_model(x, t, **labels)

    options: dict[str, Any] = {
        "n": n,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "device": device,
        "steps": steps,
    }
    options["model_kwargs"] = None if label is None else {"label": torch.full((n,), label)}
    pictures, frames, name = _sample(args, counted, schedule, shape, options, inputs)
    bar.close()
    images = tensor_to_images(pictures)
    for out in args.out:
        write_pictures(images, frames, out)
    files = ", ".join(map(str, args.out))
    print(f"{n} pictures of {args.weights}, {name}, {evaluations // batches} evaluations each: {files}")
    return 0


def _seed(args: argparse.Namespace) -> int:
    """The seed; --between draws nothing at random."""
    if args.between:
        refuse_unused(args, ["seed"], "decides no picture of --between, which has no fresh noise")
    return args.seed or 0


def _check(args: argparse.Namespace) -> None:
    """Raise on options that do not go together, and on output files that cannot be written."""
    from hw3utils.files import check_output, check_writable

    if args.guidance is not None and args.label is None:
        raise ValueError("--guidance strengthens a class; give the class with --label as well.")
    if args.like and args.between:
        raise ValueError("--like and --between exclude each other; give one of them.")
    if args.mask and not args.like:
        raise ValueError("--mask is the part of a picture that is kept; give the picture with --like.")
    if args.mask and args.sampler not in (None, "ddpm"):
        raise ValueError(f"--mask fills in by ddpm with resampling, not by {args.sampler}; leave --sampler out.")
    if (args.between or (args.like and not args.mask)) and (args.sampler not in (None, "ddim") or args.eta):
        raise ValueError("--like and --between go to the noise and back by ddim with eta 0; leave the two out.")
    if args.eta is not None and args.sampler != "ddim":
        raise ValueError(f"--eta is an option of the ddim sampler, not of {args.sampler or 'ddpm'}; leave it out.")
    for out in args.out:
        if out.suffix.lower() not in SUFFIXES:
            raise ValueError(f"--out is {out}, expected the name of a PNG, GIF or NPZ file, or of a folder.")
        if out.is_dir() and (out.suffix or any(out.iterdir())):
            raise ValueError(f"--out is {out}, a folder that is not empty; choose a PNG, GIF or NPZ file, or another.")
        (check_output if out.suffix else check_writable)(out)


def _total(args: argparse.Namespace, steps: int, batches: int) -> int:
    """The number of network evaluations, for the bar."""
    if args.mask:
        return batches * (RESAMPLINGS * (steps - 1) + 1)
    # Inversion takes two evaluations a step.
    return batches * steps + 2 * steps * (2 if args.between else 1 if args.like else 0)


def read_inputs(args: argparse.Namespace, shape: tuple[int, ...], background: int) -> dict[str, "Tensor"]:
    """The pictures of --like, --between and --mask as tensors of that shape: "known", "first", "last", "mask" (bool).

    Raises:
        ValueError: when one cannot be read, or the mask has not the shape of the picture.
    """
    inputs = {}
    if args.like:
        inputs["known"] = read_picture(args.like, shape, background)
    if args.between:
        inputs["first"], inputs["last"] = (read_picture(picture, shape, background) for picture in args.between)
    if args.mask:
        _check_same_place(args.mask, args.like, shape[1])
        # On black, so that transparent parts are sampled anew.
        inputs["mask"] = read_picture(args.mask, (1, *shape[1:]), 0) > 0
    return inputs


def _sample(
    args: argparse.Namespace,
    eps_model: Callable[..., "Tensor"],
    schedule: Any,
    shape: tuple[int, ...],
    options: dict[str, Any],
    inputs: dict[str, "Tensor"],
) -> tuple["Tensor", list["np.ndarray"], str]:
    """The pictures, the frames of the animation, and the sampler's name."""
    from functools import partial

    from hw3utils import samplers
    from hw3utils.inpainting import inpaint_steps
    from hw3utils.samplers import sample_in_batches

    name, extra = args.sampler or ("ddim" if args.between or args.like else "ddpm"), dict[str, Any]()
    choices: dict[str, Callable[..., Any]] = {
        "ddpm": samplers.ddpm_steps,
        "ddim": samplers.ddim_steps,
        "dpm": samplers.dpm_solver_steps,
    }
    states = choices[name]
    if name == "ddim":
        extra["eta"] = args.eta or 0.0
    if args.mask:
        states, name = partial(inpaint_steps, known=inputs["known"], mask=inputs["mask"]), "ddpm with resampling"
        extra = {"n_resamplings": RESAMPLINGS}
    elif inputs:
        name = "ddim there and back"
        options["x_T"] = _start(inputs, eps_model, schedule, options)
    show = any(out.suffix.lower() == ".gif" for out in args.out)
    recorder = Recorder(states, every=max(1, options["steps"] // FRAMES) if show else None)
    made = sample_in_batches(recorder, eps_model, schedule, shape, **options, **extra)
    return made, recorder.frames(), name


def _start(
    inputs: dict[str, "Tensor"], eps_model: Callable[..., "Tensor"], schedule: Any, options: dict[str, Any]
) -> "Tensor":
    """The starting noises: that of a picture interpolated with fresh ones, or those between two pictures."""
    import torch

    from hw3utils.noise import gaussian_noise, sample_generators
    from hw3utils.samplers import ddim_invert, slerp

    n, device = options["n"], options["device"]
    labels = options["model_kwargs"] or {}

    def invert(picture: torch.Tensor) -> torch.Tensor:
        own = {key: value[:1].to(device) for key, value in labels.items()}
        x0 = picture[None].to(device)
        return ddim_invert(lambda x, t: eps_model(x, t, **own), x0, schedule, steps=options["steps"])

    weights = torch.linspace(0, 1, n)
    if "first" in inputs:
        return slerp(invert(inputs["first"]), invert(inputs["last"]), weights)
    # With generators of their own: the first draws of the samples' generators are other starting noises.
    like = torch.empty(n, *inputs["known"].shape)
    fresh = gaussian_noise(like, sample_generators(options["seed"] + 1, range(n)))
    return slerp(invert(inputs["known"]), fresh.to(device), weights)


class Recorder:
    """A sampler that runs a function such as `ddim_steps` and records frames of its states.

    Args:
        states: the function.
        every: record one state of so many; None for none.
    """

    def __init__(self, states: Callable[..., Any], *, every: int | None) -> None:
        self.states, self.every = states, every
        self.batches: list[list[np.ndarray]] = []

    def __call__(self, *args: Any, **options: Any) -> "Tensor":
        """Run to the last state and return its x."""
        from hw3utils.sprites import tensor_to_images

        frames: list[np.ndarray] = []
        for k, state in enumerate(self.states(*args, **options)):
            if self.every and (k % self.every == 0 or state.t == 0):
                frames.append(tensor_to_images(state.x))
        self.batches.append(frames)
        return state.x

    def frames(self) -> list["np.ndarray"]:
        """The frames of all batches together, each uint8 (N, H, W, 3)."""
        import numpy as np

        return [np.concatenate(parts) for parts in zip(*self.batches, strict=True)]


def write_pictures(images: "np.ndarray", frames: list["np.ndarray"], out: Path) -> None:
    """Write pictures uint8 (N, H, W, 3) in the form that the suffix names: grid, animation, array, or single files."""
    from functools import partial

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
            write_atomically(file, partial(Image.fromarray(image).save, format="PNG"))


def _save_array(images: "np.ndarray", path: Path) -> None:
    import numpy as np

    # Through an open file: numpy would append its suffix to a temporary name.
    with path.open("wb") as file:
        np.savez_compressed(file, images=images)


def read_picture(path: Path, shape: tuple[int, ...], background: int) -> "Tensor":
    """Read a picture for the network: float32 of that shape in [-1, 1], scaled to fit.

    Args:
        path: the file; of an animation the first frame, which is noted on stderr.
        shape: (channels, side, side), 3 channels or 1 of grey.
        background: grey level, 0 to 255, for transparent pixels.

    Raises:
        ValueError: when it cannot be read.
    """
    import torch

    from hw3utils.sprites import images_to_tensor
    from hw3utils.sprites.pictures import fitted, on_background, read_frame

    rgba, animated = read_frame(path)
    if animated:
        print(printable(f"note: {path} is an animation; its first frame is taken."), file=sys.stderr)
    rgb = images_to_tensor(on_background(fitted(rgba, shape[1]), background)[None])[0]
    if shape[0] == 3:
        return rgb
    return (rgb * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)


def _check_same_place(mask: Path, picture: Path, side: int) -> None:
    """Raise ValueError unless a mask has the same place in the network's square as its picture."""
    from hw3utils.sprites.pictures import fitted_shape, read_rgba

    shapes = [read_rgba(path).shape[:2] for path in (mask, picture)]
    if len({fitted_shape(shape, side) for shape in shapes}) > 1:
        (height, width), (high, wide) = shapes
        raise ValueError(f"the mask {mask} has {width}x{height} pixels and {picture} {wide}x{high}, expected the same.")


def weights_path(name: str) -> Path:
    """The file or folder of --weights.

    Raises:
        ValueError: when it does not exist.
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
    """The number of the class of --label, a name on the card of the weights or a number; None for no label.

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
