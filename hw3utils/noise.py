"""Gaussian noise, one random stream per sample, and the call of a model as a sampler makes it."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.arguments import check_count, check_data

EpsModel = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator] | None


def gaussian_noise(x: Tensor, generator: Generators = None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of x.

    Args:
        x: any floating-point tensor, only its shape, dtype and device matter.
        generator: one generator for the tensor (noise is drawn on the generator's device, then moved); or a
            sequence of B generators, one per sample, so that a sample's noise does not depend on its batch; or None
            for torch's default generator.

    Returns:
        Noise, same shape, dtype and device as x.

    Raises:
        ValueError: x is not a floating-point tensor, or the number of generators is not the number of samples.
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


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a sampler keeps its state: float64, where the device of x has it."""
    return x.dtype if x.device.type == "mps" else torch.float64


# ----------------------------------------------------------------------------------------------------- calls of a model


def model_times(t: int | Tensor, x: Tensor) -> Tensor:
    """Give t as every eps_model takes it: int64, shape (B,), on the device of x."""
    return torch.as_tensor(t).to(device=x.device, dtype=torch.int64).expand(x.shape[0])


def check_answer(answer: Any, x: Tensor, name: str) -> Tensor:
    """Return what a model gave for x, or raise ValueError unless it is a tensor of the shape of x."""
    if not isinstance(answer, Tensor) or answer.shape != x.shape:
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"the {name} returned {got}, expected a tensor of shape {tuple(x.shape)}, that of its input.")
    return answer


def check_per_sample(answer: Any, x: Tensor, name: str) -> Tensor:
    """Return what a log density gave for x (B, ...), or raise ValueError unless its shape is (B,)."""
    if not isinstance(answer, Tensor) or answer.shape != x.shape[:1]:
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"the {name} returned {got}, expected shape ({len(x)},): one number per sample.")
    return answer


def predict_eps(eps_model: EpsModel, x_t: Tensor, t: int | Tensor) -> Tensor:
    """Call the model with t as int64 (B,) and check the shape of what it returns.

    Raises:
        ValueError: the model did not return a tensor of the shape of x_t.
    """
    return check_answer(eps_model(x_t, model_times(t, x_t)), x_t, "eps_model")


def networks_inside(model: Any) -> list[nn.Module]:
    """Find the networks that a callable uses: itself, or what it wraps, as far as that can be seen.

    Looked through are nn.Modules, functools.partial, bound methods, the closure, defaults and module-level names of a
    Python function, lists, tuples and dicts in these, and the attributes of other callable objects. A network that a
    function looks up by other means is not found: put it into eval mode yourself.
    """
    found: list[nn.Module] = []
    seen: set[int] = set()

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth > 8:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        else:
            for part in _parts(value):
                look(part, depth + 1)

    look(model, 0)
    return found


def _parts(value: Any) -> list[Any]:
    """What a callable is made of, for `networks_inside`."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        owner = value.__self__
        return [owner, *getattr(owner, "__dict__", {}).values()]
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*used.nonlocals.values(), *used.globals.values(), *defaults]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if callable(value) and not isinstance(value, type | torch.Tensor):
        return list(getattr(value, "__dict__", {}).values())
    return []


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the networks of a model into eval mode inside the `with` block; each submodule gets its mode back at the end.

    Args:
        model: a network, or a callable that uses some, see `networks_inside`.
    """
    training = [m for network in networks_inside(model) for m in network.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def differentiable(x: Tensor) -> Iterator[Tensor]:
    """Give a copy of x by which derivatives can be taken inside the `with` block, under torch.inference_mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield x.detach().clone().requires_grad_()


class InferenceModel:
    """A model as a sampler calls it: in eval mode, without gradients, and with a check of what it returns.

    The score of an energy and classifier guidance are derivatives by x, which torch takes inside the model. Such a
    model needs gradients itself: once a call fails without gradients and succeeds with them, all later ones get them.

    Args:
        model: callable (x, ...) -> tensor of the shape of x.
        name: how error messages call it.

    Raises:
        ValueError: (from the call) an answer of another shape, or NaN or infinity in it. On an accelerator values are
            not checked at every call, which would synchronise the device: see `check_finite`.
    """

    def __init__(self, model: Callable[..., Any], name: str = "eps_model") -> None:
        self.model, self.name = model, name
        self.networks = networks_inside(model)
        self.needs_gradients = False

    def __call__(self, x: Tensor, *rest: Any) -> Tensor:
        """The answer of the model at x, without a graph."""
        with evaluating(self.networks):
            answer = self._answer(x, *rest)
        answer = check_answer(answer, x, self.name).detach()
        if x.device.type == "cpu" and not bool(torch.isfinite(answer).all()):
            raise ValueError(f"the {self.name} returned NaN or infinity{self._when(*rest)}, expected finite numbers.")
        return answer

    def _when(self, *rest: Any) -> str:
        """At which time or noise level, for an error message."""
        symbol = {"eps_model": "t", "score": "sigma", "velocity": "s"}.get(self.name)
        if symbol is None or not rest:
            return ""
        return f" at {symbol} = {float(torch.as_tensor(rest[0]).reshape(-1)[0]):g}"

    def _answer(self, x: Tensor, *rest: Any) -> Any:
        if self.needs_gradients:
            return self._with_gradients(x, *rest)
        try:
            with torch.no_grad():
                return self.model(x.detach(), *rest)
        except RuntimeError as error:
            try:
                answer = self._with_gradients(x, *rest)
            except RuntimeError:
                raise error from None
        self.needs_gradients = True
        return answer

    def _with_gradients(self, x: Tensor, *rest: Any) -> Any:
        with differentiable(x) as x:
            return self.model(x, *rest)

    def at(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The predicted noise at time t, a number or int64 (B,)."""
        return self(x_t, model_times(t, x_t))


def check_finite(x: Tensor, message: str) -> None:
    """Raise ValueError with this message when x holds NaN or infinity."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError(message)
