"""The tables of notebook 07 for the shipped network: bits per dimension of sprites, and guidance over its weight.

`python -m hw3utils.bench.flow_table FILE` measures both and writes them with their settings, in a few minutes on one
CPU core.
"""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import hw3utils
from hw3utils import load_pretrained, pretrained_card
from hw3utils.bound import bound_terms, discrete_decoder
from hw3utils.fid import distance_of, feature_statistics
from hw3utils.files import read_json, write_json
from hw3utils.flows import bits_per_dim, log_likelihood
from hw3utils.learning.features import Features, feature_extractor
from hw3utils.noise import EpsModel
from hw3utils.progress import progress
from hw3utils.samplers import guided, sample_ddim, sample_in_batches
from hw3utils.schedules import NoiseSchedule
from hw3utils.sprites import SpriteData, load_sprites, tensor_to_images

STORED = Path(__file__).parent.parent / "tables" / "flow_sprites.json"
PLAN: dict[str, Any] = {
    "pictures": 32,
    "steps": [50, 100, 200],
    "spacing": "logsnr",
    "projections": 2,
    "weights": [1.0, 1.5, 2.0, 3.0, 5.0],
    "samples": 500,
    "sampler_steps": 20,
    "seed": 0,
}


def held_out(data: SpriteData, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Held-out pictures in [-1, 1], and the same dequantised by uniform noise; float32 (n, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.test_images), generator=generator)[:n]
    levels = torch.from_numpy(data.test_images)[chosen].movedim(-1, 1).float()
    noise = torch.rand(levels.shape, generator=generator) - 0.5
    return levels / 127.5 - 1, (levels + noise) / 127.5 - 1


def bits_of(eps_model: EpsModel, schedule: NoiseSchedule, data: SpriteData, plan: dict[str, Any]) -> dict[str, Any]:
    """Bits per dimension of held-out sprites: by the flow in several numbers of steps, and the variational bound."""
    n, seed = plan["pictures"], plan["seed"]
    clean, x = held_out(data, n, seed)
    found = {}
    for steps in progress(plan["steps"], desc="bits"):
        options = {"steps": steps, "spacing": plan["spacing"], "n_projections": plan["projections"]}
        generator = torch.Generator().manual_seed(seed + 1)
        log_prob, stderr, _ = log_likelihood(eps_model, x, schedule, generator=generator, **options)
        bits = bits_per_dim(log_prob, x[0].numel(), bin_width=2 / 255)
        found[str(steps)] = {
            "bits": float(bits.mean()),
            "error over the pictures": float(bits.std() / n**0.5),
            "error by the projections": float((bits_per_dim(stderr, x[0].numel()).square().mean() / n).sqrt()),
        }
    generator = torch.Generator().manual_seed(seed + 2)
    terms = bound_terms(eps_model, clean, schedule, decoder=discrete_decoder, generator=generator)
    error = float(terms.stderr.square().sum().sqrt())
    return {"flow": found, "bound": {"bits": float(terms.total), "error": error}}


def guidance_of(
    network: torch.nn.Module, schedule: NoiseSchedule, data: SpriteData, extractor: Features, plan: dict[str, Any]
) -> dict[str, Any]:
    """For each weight w: share of samples classified as their class, their spread, and their FID."""
    real = feature_statistics(data.train_images[:20_000], extractor)
    label = torch.arange(5).repeat_interleave(plan["samples"] // 5)
    classes = torch.from_numpy(data.test_labels[:2000]).argmax(1)
    spread_of_real = spread(data.test_images[:2000], classes, extractor)
    found = {}
    for w in progress(plan["weights"], desc="guidance"):
        model = guided(network, guidance=w)
        options = {
            "n": len(label),
            "seed": plan["seed"],
            "steps": plan["sampler_steps"],
            "model_kwargs": {"label": label},
        }
        images = tensor_to_images(sample_in_batches(sample_ddim, model, schedule, (3, 16, 16), **options))
        pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.no_grad():
            taken = cast(torch.nn.Module, extractor.classifier)(pictures.float() / 127.5 - 1)["class"].argmax(1)
        found[f"{w:g}"] = {
            "accuracy": float((taken == label).double().mean()),
            "spread": spread(images, label, extractor) / spread_of_real,
            "fid": distance_of(feature_statistics(images, extractor), real),
        }
    return found


@torch.no_grad()
def spread(images: np.ndarray, label: Tensor, extractor: Features) -> float:
    """Variance of the features within a class, summed over the features, mean over the classes."""
    features = extractor(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).double()
    return float(torch.stack([features[label == k].var(0).sum() for k in range(5)]).mean())


def measure(path: str | Path, plan: dict[str, Any] = PLAN) -> Path:
    """Measure both tables and write them to a JSON file, with their settings."""
    network, of_network = load_pretrained("sprites")
    schedule = cast(NoiseSchedule, of_network)
    network.requires_grad_(False)
    data, extractor = load_sprites("embedded"), feature_extractor("sprites")
    return write_json(
        path,
        {
            "what": "the shipped network on sprites: bits per dimension of held-out ones, guidance over its weight",
            "command": "python -m hw3utils.bench.flow_table FILE",
            "plan": plan,
            "network": pretrained_card("sprites")["sha256"],
            "features": {"name": "sprites", "sha256": pretrained_card("classifier")["sha256"]},
            "data": {"source": data.source, "sha256": data.sha256},
            "versions": {"hw3utils": hw3utils.__version__, "torch": torch.__version__, "numpy": np.__version__},
            "bits": bits_of(network, schedule, data, plan),
            "guidance": guidance_of(network, schedule, data, extractor, plan),
        },
    )


def stored_table() -> dict[str, Any]:
    """The table that is shipped with the package, with its settings and versions."""
    return read_json(STORED)


if __name__ == "__main__":
    measure(sys.argv[1])
