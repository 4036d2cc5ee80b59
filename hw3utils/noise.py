"""Noise: drawn for each sample alone, for samples made in batches, between two noises, and as a model predicts it."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_count, check_data
from hw3utils.devices import resolve_device
from hw3utils.progress import run_to_end
from hw3utils.schedules import NoiseSchedule

EpsModel = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator] | None


def model_times(t: int | Tensor, x: Tensor) -> Tensor:
    """Give t in the form every eps_model takes: int64, shape (B,), on the device of x."""
    return torch.as_tensor(t).to(device=x.device, dtype=torch.int64).expand(x.shape[0])


def gaussian_noise(x: Tensor, generator: Generators = None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of x.

    Args:
        x: any floating-point tensor, only its shape, dtype and device matter.
        generator: one generator for the whole tensor (noise is drawn on the generator's device, then moved); or a
            sequence of B generators, one per sample, so that a sample's noise does not depend on its batch; or None
            for torch's default generator.

    Returns:
        Noise, same shape, dtype and device as x.

    Raises:
        ValueError: x is no floating-point tensor, or the number of generators is not the number of samples.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        check_data(x, "x")
    if generator is None:
        return torch.randn_like(x)
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    if not isinstance(generator, Sequence) or not all(isinstance(one, torch.Generator) for one in generator):
        raise ValueError(
            f"generator is {type(generator).__name__}, expected a torch.Generator, a sequence of them, or None."
        )
    if x.ndim == 0 or len(generator) != x.shape[0]:
        raise ValueError(
            f"generator holds {len(generator)} generators, expected one per sample of shape {tuple(x.shape)}."
        )
    if not generator:
        return torch.empty_like(x)
    rows = [torch.randn(x.shape[1:], generator=one, dtype=x.dtype, device=one.device) for one in generator]
    return torch.stack(rows).to(x.device)


def predict_eps(eps_model: EpsModel, x_t: Tensor, t: int | Tensor) -> Tensor:
    """Call the model with t as int64 (B,) and make sure that what it returns has the shape of x_t.

    Raises:
        ValueError: the model returned something else than a tensor of that shape.
    """
    eps = eps_model(x_t, model_times(t, x_t))
    if not isinstance(eps, Tensor) or eps.shape != x_t.shape:
        got = f"shape {tuple(eps.shape)}" if isinstance(eps, Tensor) else type(eps).__name__
        raise ValueError(f"the eps_model returned {got}, expected a tensor of shape {tuple(x_t.shape)}.")
    return eps


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model in eval mode inside the `with` block, and give every submodule its own mode back at the end.

    Args:
        model: an nn.Module, a bound method or functools.partial of one; anything else is left alone.
    """
    while isinstance(model, functools.partial):
        model = model.func
    model = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def without_gradients(model: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
    """Call a model on x without gradients; one that is itself a gradient gets them for its own use.

    The score of an energy, or classifier guidance, is a derivative by x that torch takes inside the model. Such a model
    cannot do without gradients: it is called again with them, and its answer is cut off from what made it.

    Raises:
        What the model raises.
    """
    try:
        with torch.no_grad():
            answer = model(x.detach(), *rest)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        with torch.enable_grad():
            answer = model(x.detach().requires_grad_(), *rest)
    return answer.detach() if isinstance(answer, Tensor) else answer


@torch.no_grad()
def evaluate_eps(eps_model: EpsModel, x_t: Tensor, t: int | Tensor) -> Tensor:
    """Call the model without gradients and in eval mode (its own mode comes back), as samplers and bounds do.

    It may be itself a gradient, see `without_gradients`.

    Raises:
        ValueError: the model returned another shape than x_t has, NaN or infinity.
    """
    with evaluating(eps_model):
        eps = predict_eps(functools.partial(without_gradients, eps_model), x_t, t)
    if not bool(torch.isfinite(eps).all()):
        when = f"t = {t}" if not isinstance(t, Tensor) or t.ndim == 0 else "some t"
        raise ValueError(f"the eps_model returned NaN or infinity at {when}, expected finite numbers.")
    return eps


def sample_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """Make one generator (on the CPU) per sample, seeded by (seed, index) alone.

    Within one seed, different indices in 0..2^32 - 1 give different streams: torch's CPU generator keeps 32 bits of its
    seed, and the map from index to these 32 bits is one to one.

    Args:
        seed: an integer of at least 0.
        indices: indices of the samples, each at least 0.

    Returns:
        A list of generators, to be passed as `generator=`.

    Raises:
        ValueError: seed or an index is not an integer of at least 0.
    """
    seed = check_count(seed, "seed", low=0)
    offset = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    mask = 2**32 - 1

    def mix(k: int) -> int:  # the finaliser of MurmurHash3, a bijection of 32 bits
        k = (k ^ (k >> 16)) * 0x85EBCA6B & mask
        k = (k ^ (k >> 13)) * 0xC2B2AE35 & mask
        return k ^ (k >> 16)

    indices = [check_count(index, "a sample's index", low=0) for index in indices]
    return [torch.Generator().manual_seed(mix((offset + index) & mask)) for index in indices]


def sample_batches(
    sampler: Callable[..., Tensor],
    eps_model: EpsModel,
    schedule: NoiseSchedule,
    shape: Sequence[int],
    *,
    n: int | range,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
    x_T: Tensor | None = None,
    model_kwargs: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Make n samples in batches, each from noise of its own, so that the batch size changes nothing but memory.

    Sample i draws x_T and all further noise from a generator of its own, see `sample_generators`.

    Args:
        sampler: `sample_ddpm`, `sample_ddim`, `sample_dpm_solver`, or any function of the same form.
        eps_model, schedule: what the sampler takes.
        shape: shape of one sample, such as (3, 16, 16).
        n: number of samples, or a range of their indices (sample 7 is the same alone and among others).
        batch_size: largest number of samples in one call.
        seed: an integer of at least 0.
        device: where the samples are made; noise is drawn on the CPU, the same for every device.
        x_T: where the chains start, (n, *shape), in place of fresh noise in float32; see `early_stop`.
        model_kwargs: further arguments of the model by name (labels, for example), each a tensor with n rows.
        options: what else the sampler takes (`steps`, `eta`, `variance`, ...).

    Yields:
        Samples, (B, *shape) on `device`. `sample_in_batches` returns all of them in one tensor.

    Raises:
        ValueError: arguments out of range, and what the sampler raises.

    >>> from hw3utils.samplers import sample_ddpm
    >>> from hw3utils.schedules import linear_schedule
    >>> run = functools.partial(sample_in_batches, sample_ddpm, lambda x, t: x, linear_schedule(5), (2,), n=7)
    >>> torch.equal(run(batch_size=2), run(batch_size=7))
    True
    """
    if not callable(sampler) or not callable(eps_model):
        raise ValueError("sampler or eps_model cannot be called, expected two functions.")
    indices = n if isinstance(n, range) else range(check_count(n, "n"))
    batch_size, seed = check_count(batch_size, "batch_size"), check_count(seed, "seed", low=0)
    shape = tuple(check_count(size, "a size in shape") for size in shape)
    device, model_kwargs = resolve_device(device), model_kwargs or {}
    like = torch.empty(0, dtype=torch.float32) if x_T is None else x_T
    _check_rows(len(indices), shape, x_T, model_kwargs)

    def make(rows: slice) -> Tensor:
        generators = sample_generators(seed, indices[rows])
        # Drawn even when x_T is given: the noise of the chain is then never the noise that made x_T.
        start = gaussian_noise(like.new_empty(len(generators), *shape, device=device), generators)
        start = start if x_T is None else x_T[rows].to(device)
        own = {name: value[rows].to(device) for name, value in model_kwargs.items()}
        return sampler(functools.partial(eps_model, **own), start, schedule, generator=generators, **options)

    return (make(slice(first, first + batch_size)) for first in range(0, len(indices), batch_size))


def _check_rows(n: int, shape: tuple[int, ...], x_T: Tensor | None, model_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError unless what is given for each sample has a row for each."""
    if x_T is not None and tuple(x_T.shape) != (n, *shape):
        raise ValueError(f"x_T has shape {tuple(x_T.shape)}, expected {(n, *shape)}.")
    for name, value in model_kwargs.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the model's argument {name!r} is {got}, expected a tensor with {n} rows.")


def _together(batches: Iterator[Tensor]) -> Tensor:
    """All batches as one tensor."""
    return torch.cat(list(batches))


sample_in_batches = run_to_end(sample_batches, "sample_in_batches", _together)


def working_dtype(x: Tensor) -> torch.dtype:
    """float64, where the device of x has it."""
    return x.dtype if x.device.type == "mps" else torch.float64


def slerp(noise_a: Tensor, noise_b: Tensor, weight: float | Tensor) -> Tensor:
    """Interpolate between two noises on the sphere, so that what lies between them is as long as noise should be.

    Args:
        noise_a, noise_b: noises of shape (B, ...), interpolated sample by sample; shape (D,) is one sample. A batch of
            one is used with every weight, and with every sample of the other.
        weight: 0 gives noise_a, 1 gives noise_b; a number, or a tensor (B,) with one weight per sample.

    Returns:
        The interpolation, shape (B, ...), or (D,) when nothing had a batch.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity.

    Source: Shoemake 1985; Song, Meng and Ermon 2021, arXiv 2010.02502, appendix D.5, equation 67.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([0.7071, 0.7071])
    """
    check_data(noise_a, "noise_a")
    check_data(noise_b, "noise_b")
    weight = torch.as_tensor(weight)
    if noise_a.ndim == 0 or noise_a.ndim != noise_b.ndim or noise_a.shape[1:] != noise_b.shape[1:]:
        shapes = f"{tuple(noise_a.shape)} and {tuple(noise_b.shape)}"
        raise ValueError(f"the noises have shapes {shapes}, expected the same shape (B, ...).")
    if weight.ndim > 1 or not bool(torch.isfinite(weight).all()):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected one finite number or one per sample.")
    single = noise_a.ndim == 1
    a, b = (x[None] if single else x for x in (noise_a, noise_b))
    if single and a.shape != b.shape:
        raise ValueError(f"the noises have {a.shape[1]} and {b.shape[1]} entries, expected the same number.")
    sizes = {len(a), len(b), weight.numel()} - {1}
    if len(sizes) > 1:
        got = f"{len(a)} and {len(b)} noises and {weight.numel()} weights"
        raise ValueError(f"got {got}, expected equal numbers, or one.")
    work = working_dtype(a)
    u, v = a.to(work).flatten(1), b.to(work).flatten(1)
    cos = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(torch.finfo(work).tiny)
    theta = cos.clamp(-1, 1).acos()
    w = weight.to(work).to(a.device).reshape(-1)
    straight = theta.sin() < 1e-6  # (nearly) parallel: the arc is the chord
    sin = torch.where(straight, torch.ones_like(theta), theta.sin())
    on_a = torch.where(straight, 1 - w, ((1 - w) * theta).sin() / sin)
    on_b = torch.where(straight, w, (w * theta).sin() / sin)
    shape = (-1, *[1] * (a.ndim - 1))
    out = (on_a.reshape(shape) * a.to(work) + on_b.reshape(shape) * b.to(work)).to(noise_a.dtype)
    return out[0] if single and weight.ndim == 0 else out
