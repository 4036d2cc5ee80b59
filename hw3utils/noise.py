"""Noise, drawn and predicted: every sample's own, whatever the batch; and the calling of an eps_model."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_data

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


@torch.no_grad()
def evaluate_eps(eps_model: EpsModel, x_t: Tensor, t: int | Tensor) -> Tensor:
    """Call the model without gradients and in eval mode (its own mode comes back), as samplers and bounds do.

    Raises:
        ValueError: the model returned another shape than x_t has, NaN or infinity.
    """
    with evaluating(eps_model):
        eps = predict_eps(eps_model, x_t, t)
    if not bool(torch.isfinite(eps).all()):
        when = f"t = {t}" if not isinstance(t, Tensor) or t.ndim == 0 else "some t"
        raise ValueError(f"the eps_model returned NaN or infinity at {when}, expected finite numbers.")
    return eps
