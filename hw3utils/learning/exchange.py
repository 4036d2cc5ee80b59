"""Exchange with diffusers: its models as eps_models for our samplers, our networks as its pipelines.

This is the only module of the package that imports diffusers.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, DDIMPipeline, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from hw3utils.learning.networks import UNet
from hw3utils.noise import EpsModel
from hw3utils.schedules import NoiseSchedule
from hw3utils.velocities import as_eps_model

# Prediction types of diffusers -> those of `velocities.convert`.
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


class _DiffusersEpsModel(nn.Module):
    """A model of diffusers as eps_model(x_t, t, label); a submodule, so that samplers can set its evaluation mode."""

    def __init__(self, unet: Any, schedule: NoiseSchedule, prediction: str) -> None:
        super().__init__()
        self.unet, self.schedule, self.prediction = unet, schedule, prediction

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        labels = {} if label is None else {"class_labels": label}

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return self.unet(x_t, t - 1, **labels).sample

        return as_eps_model(model, self.schedule, given=self.prediction)(x_t, t)


def from_diffusers(unet: Any, scheduler: Any) -> tuple[EpsModel, NoiseSchedule]:
    """Convert a diffusers model and its scheduler to an eps_model and a schedule for our samplers.

    For a pipeline: `eps_model, schedule = from_diffusers(pipeline.unet, pipeline.scheduler)`. In diffusers t counts
    from 0, here from 1; a class-conditional model takes its labels as `label`.

    Args:
        unet: a `UNet2DModel`, or any model called as unet(x_t, t, class_labels=...).sample.
        scheduler: the scheduler of its training (`DDPMScheduler`, `DDIMScheduler` and others with `alphas_cumprod`).

    Returns:
        eps_model(x_t, t) for t in 1..T, and the schedule.

    Raises:
        ValueError: when the scheduler has no such table, or another prediction type than epsilon, sample, v_prediction.
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(table, Tensor):
        raise ValueError(
            f"{type(scheduler).__name__} has no alphas_cumprod; take the scheduler of the training, DDPM's."
        )
    predicts = scheduler.config.get("prediction_type", "epsilon")
    if predicts not in _PREDICTIONS:
        raise ValueError(f"the model predicts {predicts!r}, expected one of {', '.join(_PREDICTIONS)}.")
    schedule = NoiseSchedule.from_alpha_bar(torch.cat([torch.ones(1, dtype=torch.float64), table.double().cpu()]))
    return _DiffusersEpsModel(unet, schedule, _PREDICTIONS[predicts]), schedule


class DiffusersUNet(ModelMixin, ConfigMixin):
    """Our UNet as a model of diffusers, whose t counts from 0.

    Args:
        sample_size: side of a picture.
        in_channels: its channels.
        network: the other arguments of `UNet`.
    """

    @register_to_config
    def __init__(self, sample_size: int = 16, in_channels: int = 3, network: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.inner = UNet(**(network or {}))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the noise in sample (B, C, H, W) at the time or times `timestep`, 0..T - 1."""
        t = torch.as_tensor(timestep, device=sample.device).long().expand(len(sample)) + 1
        eps = self.inner(sample, t, class_labels)
        return UNet2DOutput(sample=eps) if return_dict else (eps,)


def to_diffusers(network: UNet, schedule: NoiseSchedule, folder: str | Path, *, side: int = 16) -> Path:
    """Write weights as a folder that `diffusers.DDIMPipeline.from_pretrained` loads where hw3utils is installed.

    The pipeline with S steps then gives the samples of `sample_ddim` with S steps, for S that divides T.

    Args:
        network: the result of `load_weights` or `load_pretrained`.
        schedule: its schedule.
        folder: where to write.
        side: of the pictures.

    Raises:
        OSError: when the folder cannot be written.
    """
    model = DiffusersUNet(sample_size=side, in_channels=network.config["channels"], network=network.config)
    model.inner.load_state_dict(network.state_dict())
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.T,
        trained_betas=schedule.beta[1:].tolist(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    pipeline: Any = DDIMPipeline(unet=model, scheduler=scheduler)
    pipeline.save_pretrained(folder)
    return Path(folder)
