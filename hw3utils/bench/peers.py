"""The networks and libraries that `hw3 bench` compares ours with: the course's network, and diffusers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.learning.training import seeded


class _ConvBlock(nn.Module):
    """Conv, batch norm, GELU, twice; optionally residual."""

    def __init__(self, width_in: int, width: int, *, residual: bool = False) -> None:
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU())
        self.conv_2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU())
        self.residual = residual
        # The published block creates this convolution, with random weights, in every forward pass.
        self.shortcut = nn.Conv2d(width_in, width, 1) if residual and width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_2(self.conv_1(x))
        return (self.shortcut(x) + h) / 1.414 if self.residual else h


class _Up(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(width_in, width, 2, stride=2), _ConvBlock(width, width), _ConvBlock(width, width)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.layers(torch.cat([x, skip], dim=1))


def _embed(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width), nn.Unflatten(1, (width, 1, 1)))


class ContextUnet(nn.Module):
    """The network of the course: 64 features, GELU, batch norm, skips concatenated.

    One thing differs from the published code: the shortcut convolution of the first block is a layer.

    Args:
        features: width of the first level.
        n_classes: length of the one-hot context.
        height: side of the square pictures, a multiple of 4.
        T: number of diffusion steps; the network gets t / T.
    """

    def __init__(self, *, features: int = 64, n_classes: int = 5, height: int = 16, T: int = 1000) -> None:
        super().__init__()
        f, self.T, self.n_classes = features, T, n_classes
        self.stem = _ConvBlock(3, f, residual=True)
        self.down_1 = nn.Sequential(_ConvBlock(f, f), _ConvBlock(f, f), nn.MaxPool2d(2))
        self.down_2 = nn.Sequential(_ConvBlock(f, 2 * f), _ConvBlock(2 * f, 2 * f), nn.MaxPool2d(2))
        self.to_vector = nn.Sequential(nn.AvgPool2d(height // 4), nn.GELU())
        self.time_1, self.time_2 = _embed(1, 2 * f), _embed(1, f)
        self.context_1, self.context_2 = _embed(n_classes, 2 * f), _embed(n_classes, f)
        self.up_0 = nn.Sequential(
            nn.ConvTranspose2d(2 * f, 2 * f, height // 4, height // 4), nn.GroupNorm(8, 2 * f), nn.ReLU()
        )
        self.up_1, self.up_2 = _Up(4 * f, f), _Up(2 * f, f)
        self.head = nn.Sequential(
            nn.Conv2d(2 * f, f, 3, padding=1), nn.GroupNorm(8, f), nn.ReLU(), nn.Conv2d(f, 3, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the noise in x_t (B, 3, H, H) at int64 t (B,); label int64 (B,), None or n_classes for none."""
        if label is None:
            label = torch.full_like(t, self.n_classes)
        context = nn.functional.one_hot(label, self.n_classes + 1)[:, :-1].to(x.dtype)
        time = (t / self.T).to(x.dtype)[:, None]
        x = self.stem(x)
        down_1 = self.down_1(x)
        down_2 = self.down_2(down_1)
        up_1 = self.up_0(self.to_vector(down_2))
        up_2 = self.up_1(self.context_1(context) * up_1 + self.time_1(time), down_2)
        up_3 = self.up_2(self.context_2(context) * up_2 + self.time_2(time), down_1)
        return self.head(torch.cat([up_3, x], dim=1))


class FromDiffusers(nn.Module):
    """A diffusers UNet2DModel for 16x16 pictures as eps_model(x_t, t); labels are ignored.

    Two residual blocks a level and attention at the second level, as in the examples of the library.

    Args:
        widths: channels of the three levels.

    Raises:
        ImportError: when diffusers is not installed.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.model: Any = UNet2DModel(
            sample_size=16,
            in_channels=3,
            out_channels=3,
            block_out_channels=widths,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the noise in x_t (B, 3, H, W) at int64 t (B,)."""
        return self.model(x, t).sample


@torch.no_grad()
def sample_with_diffusers(
    scheduler: str, eps_model: Callable[[Tensor, Tensor], Tensor], x_T: Tensor, *, steps: int
) -> Tensor:
    """Sample with a scheduler of diffusers, linear schedule with T = 1000, by the loop of its documentation.

    Args:
        scheduler: "DDPM" or "DDIM".
        eps_model: called as eps_model(x_t, t).
        x_T: standard normal noise.
        steps: evaluations of the network.

    Raises:
        ImportError: when diffusers is not installed.
    """
    import diffusers

    made = getattr(diffusers, f"{scheduler}Scheduler")(num_train_timesteps=1000)
    made.set_timesteps(steps)
    x = x_T
    for t in made.timesteps:
        x = made.step(eps_model(x, t.to(x.device).expand(len(x))), t, x).prev_sample
    return x


CONTENDERS: dict[str, Callable[[], nn.Module]] = {
    "course ContextUnet 64": ContextUnet,
    "diffusers 32, 64, 64": lambda: FromDiffusers((32, 64, 64)),
    "diffusers 64, 128, 128": lambda: FromDiffusers((64, 128, 128)),
}


def available() -> tuple[dict[str, nn.Module], list[str]]:
    """The networks whose libraries are installed, with initial weights by seed 0, and a sentence for each other one."""
    made, missing = {}, []
    for name, make in CONTENDERS.items():
        try:
            made[name] = seeded(make, 0)
        except ImportError as error:
            missing.append(f"{name}: left out, {error.name or error} is not installed")
    return made, missing
