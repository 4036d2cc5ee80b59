"""The networks: a small UNet that predicts noise, multilayer perceptrons for points, and the classifier of sprites.

Each computes in the dtype of its weights and answers in the dtype of its input.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hw3utils.arguments import check_count, check_number, shown
from hw3utils.schedules import schedule_from_card

Layer = TypeVar("Layer", bound=nn.Module)


def sinusoidal_embedding(t: Tensor, dimension: int, *, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of a time step at geometrically spaced frequencies.

    Args:
        t: time steps, shape (B,), any real dtype.
        dimension: length of the embedding, even.
        max_period: longest period, divided by 2 pi, in time steps.

    Returns:
        float32 tensor (B, dimension), sines first.

    Raises:
        ValueError: when the dimension is odd or not positive.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, as used by Ho et al. 2020, arXiv 2006.11239, appendix B.
    """
    if check_count(dimension, "dimension", low=2) % 2:
        raise ValueError(f"dimension is {dimension}, expected an even number: one half sines, one half cosines.")
    half = dimension // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angle = t.float()[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _zeroed(layer: Layer) -> Layer:
    """Set a layer's parameters to zero: the residual block that ends with it begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Residual block x + f(x), f = norm, SiLU, conv, norm, scale and shift (by time and label), SiLU, conv.

    Args:
        width: channels in and out.
        groups: groups of the two GroupNorms.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, width)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm_2 = nn.GroupNorm(groups, width)
        self.conv_2 = _zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x (B, width, H, W); scale and shift (B, width, 1, 1)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = torch.addcmul(shift, self.norm_2(h), scale)
        return x + self.conv_2(F.silu(h))


class Attention(nn.Module):
    """Residual attention, one head: every pixel attends to the 2x2 patches of the picture, in fp32 (fp64 for fp64).

    Keys and values come from a strided 2x2 convolution, which leaves a quarter of the pairs. The products are written
    out because `scaled_dot_product_attention` takes three times as long on a CPU in training at these sizes.

    Args:
        width: channels.
        groups: groups of the GroupNorm.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.query = nn.Conv2d(width, width, 1)
        self.key_value = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.out = _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, H, W), H and W even."""
        h, dtype = self.norm(x), torch.promote_types(x.dtype, torch.float32)
        query = self.query(h).to(dtype).flatten(2).transpose(1, 2)
        key, value = self.key_value(h).to(dtype).flatten(2).chunk(2, dim=1)
        # Autocast would compute these in bf16.
        with torch.autocast(x.device.type, enabled=False):
            weights = torch.bmm(query * x.shape[1] ** -0.5, key).softmax(dim=-1)
            mixed = torch.bmm(weights, value.transpose(1, 2))
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape).to(self.out.weight.dtype))


def _check_sizes(channels: Any, n_classes: Any, groups: Any, time_width: Any, **levels: Any) -> None:
    """Raise ValueError unless a UNet can be made of these; `levels` are its three sequences."""
    # Upper limits far above any use: a damaged card must not fill the memory.
    for name, value, low in (("channels", channels, 1), ("n_classes", n_classes, 0), ("groups", groups, 1)):
        check_count(value, name, low=low, high=10_000)
    check_count(time_width, "time_width", low=2, high=1024)
    for name, values in levels.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not 0 < len(values) <= 8:
            raise ValueError(f"{name} is {shown(values)}, expected one number for each of 1 to 8 levels.")
        for value in values:
            check_count(value, f"a number in {name}", high=1024 if name == "widths" else 16)
    lengths = [len(values) for values in levels.values()]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"widths, blocks_down and blocks_up describe the same levels: got lengths {lengths[0]}, "
            f"{lengths[1]} and {lengths[2]}, expected the same."
        )
    widths = levels["widths"]
    if any(width % groups for width in widths):
        raise ValueError(f"every width must be a multiple of groups = {groups}: got {tuple(widths)}.")


class UNet(nn.Module):
    """A small UNet eps_model(x_t, t) -> eps with an optional class label.

    Residual blocks with GroupNorm and SiLU at each resolution (halved from level to level), skips added, and attention
    after each block of the finest level on the way up, so that a colour reaches all of a figure; the last layer of each
    block starts at zero. One linear layer makes every block's scale and shift from the embedded time and label. The
    label `n_classes` stands for "no label", so one set of weights samples unconditionally, by class and with guidance.

    Args:
        channels: channels of the pictures.
        widths: channels of each level, finest first, multiples of `groups`.
        blocks_down: residual blocks of each level on the way down.
        blocks_up: the same on the way up.
        n_classes: number of classes.
        groups: groups of every GroupNorm.
        time_width: length of the sinusoidal embedding of t.
        schedule: card of the noise schedule (`NoiseSchedule.card()`). With it the output is noise_t x_t + signal_t f,
            where f is the output of the layers: for data of variance 1 the first term is the best linear prediction,
            and near t = T, where x_t is nearly all noise, f has negligible weight. None: the output is f.

    Raises:
        ValueError: when the three sequences differ in length, a width does not fit the groups, or the card is wrong.

    Source: Ho et al. 2020, arXiv 2006.11239, appendix B; scale and shift: Nichol and Dhariwal 2021, arXiv 2102.09672;
    f is the velocity of Salimans and Ho 2022, arXiv 2202.00512, section 4, here inside a noise predictor.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        blocks_down: Sequence[int] = (1, 1, 1),
        blocks_up: Sequence[int] = (2, 1, 1),
        n_classes: int = 5,
        groups: int = 8,
        time_width: int = 128,
        schedule: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(
            channels, n_classes, groups, time_width, widths=widths, blocks_down=blocks_down, blocks_up=blocks_up
        )
        self.config = {
            "channels": channels,
            "widths": list(widths),
            "blocks_down": list(blocks_down),
            "blocks_up": list(blocks_up),
            "n_classes": n_classes,
            "groups": groups,
            "time_width": time_width,
            "schedule": None if schedule is None else dict(schedule),
        }
        levels = None
        if schedule is not None:
            made = schedule_from_card(schedule)
            levels = torch.stack([made.signal, made.noise]).float()
        self.levels: Tensor | None
        self.register_buffer("levels", levels, persistent=False)
        self.n_classes = n_classes
        self.time_width = time_width
        embedding_width = 2 * time_width
        self.time_mlp = nn.Sequential(
            nn.Linear(time_width, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        self.label_embedding = nn.Embedding(n_classes + 1, embedding_width)

        def level(width: int, blocks: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, groups) for _ in range(blocks))

        steps = list(itertools.pairwise(widths))
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(map(level, widths, blocks_down))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        # A 1x1 convolution and nearest-neighbour upsampling cost a quarter of a transposed convolution.
        self.grow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in steps)
        self.up = nn.ModuleList(map(level, widths, blocks_up))
        self.attention = nn.ModuleList(Attention(widths[0], groups) for _ in range(blocks_up[0]))
        self.norm = nn.GroupNorm(groups, widths[0])
        self.head = _zeroed(nn.Conv2d(widths[0], channels, 1))

        down = [width for width, blocks in zip(widths, blocks_down, strict=True) for _ in range(blocks)]
        up = [width for width, blocks in zip(widths, blocks_up, strict=True) for _ in range(blocks)]
        self.block_widths = down + up[::-1]
        self.modulation = _zeroed(nn.Linear(embedding_width, 2 * sum(self.block_widths)))

    def _check_input(self, x_t: Any, t: Any, label: Any) -> None:
        """Raise ValueError unless these are pictures, and times and labels for them."""
        given = {"x_t": x_t, "t": t} | ({} if label is None else {"label": label})
        for name, value in given.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} is {type(value).__name__}, expected a tensor.")
        factor = 2 ** max(1, len(self.down) - 1)
        channels = self.stem.in_channels
        if not x_t.is_floating_point():
            raise ValueError(f"this UNet takes floating-point pictures: got {x_t.dtype}; scale them to [-1, 1] first.")
        if x_t.ndim != 4 or x_t.shape[1] != channels or x_t.shape[2] % factor or x_t.shape[3] % factor:
            raise ValueError(
                f"this UNet takes pictures (B, {channels}, H, W) with sides a multiple of {factor}: "
                f"got shape {tuple(x_t.shape)}"
            )
        per_picture = [(name, value) for name, value in given.items() if name != "x_t"]
        if any(value.shape != x_t.shape[:1] for _, value in per_picture):
            got = " and ".join(f"{name} {tuple(value.shape)}" for name, value in per_picture)
            raise ValueError(f"t and label hold one value a picture, shape ({len(x_t)},): got {got}")
        if any(value.dtype != torch.int64 for _, value in per_picture):
            got = " and ".join(f"{name} {value.dtype}" for name, value in per_picture)
            raise ValueError(f"t and label are int64: got {got}")
        # Reading values would wait for an accelerator and break a compiled graph; there, indexing fails by itself.
        if x_t.device.type == "cpu" and not torch.compiler.is_compiling() and len(t):
            self._check_values(t, label)

    def _check_values(self, t: Tensor, label: Tensor | None) -> None:
        """Raise ValueError on a time or label out of range."""
        most = None if self.levels is None else self.levels.shape[1] - 1
        if int(t.min()) < 0 or (most is not None and int(t.max()) > most):
            raise ValueError(f"t is in {int(t.min())}..{int(t.max())}, expected 0..{'' if most is None else most}.")
        if label is not None and not 0 <= int(label.min()) <= int(label.max()) <= self.n_classes:
            got = f"{int(label.min())}..{int(label.max())}"
            raise ValueError(f"label is in {got}, expected 0..{self.n_classes}, the last for no label.")

    def scales_and_shifts(self, t: Tensor, label: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Scale and shift of each residual block in the order of use, each (B, width, 1, 1)."""
        if label is None:
            label = torch.full_like(t, self.n_classes)
        time = sinusoidal_embedding(t, self.time_width).to(self.label_embedding.weight.dtype)
        embedding = self.time_mlp(time) + self.label_embedding(label)
        made = self.modulation(F.silu(embedding))[:, :, None, None]
        scales, shifts = made.split(sum(self.block_widths), dim=1)
        return zip((1 + scales).split(self.block_widths, dim=1), shifts.split(self.block_widths, dim=1), strict=True)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the noise.

        Args:
            x_t: noisy pictures (B, channels, H, W), sides even, and a multiple of 2 to the number of levels less one.
            t: int64 time steps (B,), 1..T.
            label: int64 classes (B,) in 0..n_classes, `n_classes` for "no label"; None for no label at all.

        Returns:
            The predicted noise, shape and dtype of x_t.

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        self._check_input(x_t, t, label)
        modulation, attention = self.scales_and_shifts(t, label), iter(self.attention)
        h = self.stem(x_t.to(self.stem.weight.dtype))
        skips = []
        for level in range(len(self.down)):
            if level:
                h = self.shrink[level - 1](h)
            for block in _blocks(self.down, level):
                h = block(h, *next(modulation))
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(len(self.up))):
            if skips and level < len(self.up) - 1:
                h = F.interpolate(self.grow[level](h), scale_factor=2) + skips.pop()
            for block in _blocks(self.up, level):
                h = block(h, *next(modulation))
                if level == 0:
                    h = next(attention)(h)
        f = self.head(F.silu(self.norm(h))).to(x_t.dtype)
        if self.levels is None:
            return f
        signal, noise = self.levels[:, t].to(x_t.dtype)[:, :, None, None, None]
        return noise * x_t + signal * f


def _blocks(levels: nn.ModuleList, level: int) -> nn.ModuleList:
    """The blocks of a level."""
    blocks = levels[level]
    assert isinstance(blocks, nn.ModuleList)  # for the type checker
    return blocks


class ScoreMLP(nn.Module):
    """A multilayer perceptron score(x, sigma) for points, smooth in x: score = f(c x, log sigma) / s.

    With `conditional` it takes sigma, scales its input by c = 1 / sqrt(data_scale^2 + sigma^2) and its output by
    1 / s = 1 / sigma (the size that the score of perturbed data has). Without, sigma is ignored (c = s = 1): one
    network for one noise level, or for the data themselves.

    Args:
        dimension: D, of the points.
        width: units of each hidden layer.
        depth: hidden layers.
        conditional: whether it takes sigma.
        data_scale: standard deviation of the data, above 0, for a conditional network.

    Raises:
        ValueError: when a size is not a positive integer, or data_scale not a number above 0.

    Source: Song and Ermon 2019, arXiv 1907.05600, section 4.2; scaling by 1 / sigma: Song and Ermon 2020, arXiv
    2006.09011, technique 3.
    """

    def __init__(
        self,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 2,
        conditional: bool = False,
        data_scale: float = 3.0,
    ) -> None:
        super().__init__()
        dimension, width = check_count(dimension, "dimension"), check_count(width, "width")
        depth = check_count(depth, "depth")
        data_scale = check_number(data_scale, "data_scale", above=0)
        self.config: dict[str, Any] = {"dimension": dimension, "width": width, "depth": depth}
        self.config |= {"conditional": conditional, "data_scale": data_scale}
        self.dimension, self.conditional, self.data_scale = dimension, conditional, data_scale
        sizes = [dimension + conditional, *[width] * depth]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))

    def forward(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Give the score.

        Args:
            x: points (B, D).
            sigma: noise level above 0 of a conditional network, one number or one a point (B,).

        Returns:
            The score, shape of x.

        Raises:
            ValueError: on a wrong shape, or a sigma that is not above 0.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"this network takes floating-point points (B, {self.dimension}): got {got}.")
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"this network takes points (B, {self.dimension}): got shape {tuple(x.shape)}.")
        dtype = next(self.parameters()).dtype
        if not self.conditional:
            return self.layers(x.to(dtype)).to(x.dtype)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        if level.shape not in ((), x.shape[:1]) or not bool((level > 0).all()):
            raise ValueError(f"sigma is one level above 0, or one a point ({len(x)},): got shape {tuple(level.shape)}.")
        level = level.expand(len(x))[:, None]
        scaled = torch.cat([x / (self.data_scale**2 + level**2).sqrt(), level.log()], dim=1)
        return self.layers(scaled.to(dtype)).to(x.dtype) / level


class EpsMLP(nn.Module):
    """A small eps_model(x_t, t) for points, made of a noise-conditional score network.

    x_t / signal_t is x_0 plus noise of size sigma = noise_t / signal_t, and eps = -sigma score(x_t / signal_t, sigma).

    Args:
        schedule: card of the noise schedule (`NoiseSchedule.card()`).
        options: sizes of the `ScoreMLP` inside.

    Raises:
        ValueError: when the card or a size is wrong.

    Source: Song et al. 2021, arXiv 2011.13456, appendix B (variance exploding and variance preserving).
    """

    def __init__(self, *, schedule: Mapping[str, Any], **options: Any) -> None:
        super().__init__()
        made = schedule_from_card(schedule)
        self.config = {"schedule": dict(schedule), **options}
        self.score = ScoreMLP(conditional=True, **options)
        self.levels: Tensor
        self.register_buffer("levels", torch.stack([made.signal, made.noise]).float(), persistent=False)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in x_t (B, D) at t int64 (B,) in 1..T."""
        signal, noise = self.levels[:, t].to(x_t.dtype)
        sigma = noise / signal
        return -sigma[:, None] * self.score(x_t / signal[:, None], sigma)


class SpriteClassifier(nn.Module):
    """A small classifier of 16x16 pictures with several attributes, each predicted from the same features.

    Convolutions down to 4x4, a linear layer to the features, and a linear layer for each attribute. The Fréchet
    distance of sprites is measured in these features.

    Args:
        attributes: name of each attribute -> how many values it has.
        width: channels of the first level; the others have two and four times as many.
        features: length of the feature vector.

    Raises:
        ValueError: when there is no attribute, or a number is not a positive integer.
    """

    def __init__(self, *, attributes: Mapping[str, int], width: int = 32, features: int = 128) -> None:
        super().__init__()
        if not isinstance(attributes, Mapping) or not attributes or len(attributes) > 1000:
            raise ValueError(f"attributes is {shown(attributes)}, expected names and numbers of values.")
        self.attributes = {
            str(name): check_count(n, f"the values of {name}", high=10_000) for name, n in attributes.items()
        }
        width = 8 * check_count(width // 8 if isinstance(width, int) else width, "width / 8", high=128)
        features = self.num_features = check_count(features, "features", high=10_000)
        self.config = {"attributes": self.attributes, "width": width, "features": features}

        def level(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(channels_in, channels, 3, stride, 1), nn.GroupNorm(8, channels), nn.SiLU()]

        self.body = nn.Sequential(
            *level(3, width, 1),
            *level(width, 2 * width, 2),
            *level(2 * width, 4 * width, 2),
            *level(4 * width, 4 * width, 1),
            nn.Flatten(),
            nn.Linear(64 * width, features),
        )
        self.heads = nn.Linear(features, sum(self.attributes.values()))

    def features(self, x: Tensor) -> Tensor:
        """The feature vectors (B, features) of pictures (B, 3, 16, 16) in [-1, 1].

        Raises:
            ValueError: on a wrong shape or dtype.
        """
        if not x.is_floating_point() or x.shape[1:] != (3, 16, 16):
            raise ValueError(
                f"this classifier takes floating-point pictures (B, 3, 16, 16) in [-1, 1]: "
                f"got {x.dtype} {tuple(x.shape)}."
            )
        return self.body(x.to(self.heads.weight.dtype)).to(x.dtype)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, values) for each attribute, of pictures (B, 3, 16, 16) in [-1, 1]."""
        features = F.silu(self.features(x)).to(self.heads.weight.dtype)
        logits = self.heads(features).to(x.dtype).split(list(self.attributes.values()), dim=1)
        return dict(zip(self.attributes, logits, strict=True))
