"""hw3utils: diffusion and score-based generative models in small pieces, each checked against a closed form.

What a user reaches for first is importable from here, and loaded when it is first used:

    from hw3utils import UNet, linear_schedule, load_pretrained, sample_ddim
"""

import importlib
import inspect
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hw3utils.fid import fid
    from hw3utils.langevin import langevin
    from hw3utils.learning.networks import UNet
    from hw3utils.learning.training import train
    from hw3utils.learning.weights import load_pretrained, pretrained_card
    from hw3utils.mixtures import GaussianMixture
    from hw3utils.samplers import sample_ddim, sample_ddpm, sample_dpm_solver
    from hw3utils.schedules import NoiseSchedule, cosine_schedule, linear_schedule
    from hw3utils.sprites import load_sprites

__version__ = "0.1.0"
__all__ = [
    "GaussianMixture",
    "NoiseSchedule",
    "UNet",
    "cosine_schedule",
    "fid",
    "langevin",
    "linear_schedule",
    "load_pretrained",
    "load_sprites",
    "pretrained_card",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpm_solver",
    "train",
]
_MODULES = {
    "GaussianMixture": "mixtures",
    "NoiseSchedule": "schedules",
    "UNet": "learning.networks",
    "cosine_schedule": "schedules",
    "linear_schedule": "schedules",
    "load_pretrained": "learning.weights",
    "load_sprites": "sprites",
    "pretrained_card": "learning.weights",
    "sample_ddim": "samplers",
    "sample_ddpm": "samplers",
    "sample_dpm_solver": "samplers",
    "train": "learning.training",
}


class CallableModule(types.ModuleType):
    """A module that can also be called as its function of the same name.

    `hw3utils.fid` and `hw3utils.langevin` are modules, and a user who types `hw3utils.fid(a, b)` means the function.
    """

    def _function(self) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `hw3 --help` does not import torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f"hw3utils.{_MODULES[name]}"), name)
    if name in ("fid", "langevin"):
        return importlib.import_module(f"hw3utils.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
