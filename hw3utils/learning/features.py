"""Feature networks for distances between sets of pictures: the shipped classifier, or Inception."""

import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from hw3utils import files
from hw3utils.arguments import shown
from hw3utils.devices import resolve_device
from hw3utils.files import file_sha256, read_tensors
from hw3utils.learning.networks import SpriteClassifier
from hw3utils.learning.weights import load_weights, pretrained_path

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359


class Features(nn.Module):
    """A feature network, always in evaluation mode: pictures uint8 (B, 3, H, W) -> vectors (B, num_features).

    Attributes:
        name: the name to print beside every distance.
        num_features: D.
    """

    def __init__(self, name: str, num_features: int) -> None:
        super().__init__()
        self.name, self.num_features = name, num_features

    def train(self, mode: bool = True) -> "Features":
        """Stay in evaluation mode: with batch statistics, features would depend on the batch."""
        return super().train(False)


class _SpriteFeatures(Features):
    def __init__(self, classifier: SpriteClassifier, scale: float) -> None:
        super().__init__("sprites", classifier.num_features)
        self.classifier, self.scale = classifier, scale
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, 16, 16):
            raise ValueError(
                f"the sprites features take pictures uint8 (B, 3, 16, 16), got {pictures.dtype} "
                f"{tuple(pictures.shape)}; cut them to 16x16 (--tile 16, --resize), or take --extractor inception."
            )
        return self.scale * self.classifier.features(pictures.float() / 127.5 - 1)


class _InceptionFeatures(Features):
    def __init__(self, weights: Path) -> None:
        super().__init__("inception", 2048)
        # Without antialias, as torch-fidelity and the original TensorFlow code resize.
        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights), antialias=False)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)


def feature_extractor(
    name: str, *, inception_weights: str | Path | None = None, device: torch.device | str = "cpu", download: bool = True
) -> Features:
    """Make a feature network by name.

    Args:
        name: "sprites" (features of the shipped classifier of the embedded sprites, scaled to a mean variance of 1), or
            "inception" (the standard 2048 features).
        inception_weights: file of the Inception weights, a .pth or safetensors file in torch-fidelity's format. None:
            the file in the hub cache, else a download of 96 MB.
        device: where it goes.
        download: False forbids the network.

    Raises:
        ValueError: on an unknown name, a damaged file, or a file given with another name than "inception".
        FileNotFoundError: when the file is missing.
        ConnectionError: when a download was needed and failed or is forbidden.

    Source: Heusel et al. 2017, arXiv 1706.08500; torch-fidelity's FeatureExtractorInceptionV3.
    """
    device = resolve_device(device)
    if name == "sprites":
        if inception_weights is not None:
            raise ValueError("Inception weights were given but the features are 'sprites'; ask for 'inception'.")
        classifier, _, card = load_weights(pretrained_path("classifier"))
        return _SpriteFeatures(cast(SpriteClassifier, classifier), card["feature_scale"]).to(device)
    if name == "inception":
        return _inception(inception_weights, download).to(device)
    raise ValueError(f"there are no features {shown(name)}, expected 'sprites' or 'inception'.")


def _inception(weights: str | Path | None, download: bool) -> Features:
    """Inception with weights that were read safely.

    torch-fidelity unpickles the file it is given. So the file is read here without running code, and torch-fidelity
    gets a file that was just written from the tensors.
    """
    path = inception_file(download) if weights is None else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path of the Inception weights.")
    try:
        if path.suffix == ".safetensors":
            state = read_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds no dictionary of tensors")
        with tempfile.TemporaryDirectory() as folder:
            safe = Path(folder) / INCEPTION_FILE
            torch.save(state, safe)
            with torch.random.fork_rng(devices=[]):
                return _InceptionFeatures(safe)
    except Exception as error:  # the readers raise many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not hold the Inception weights in torch-fidelity's format ({reason}); "
            f"get {INCEPTION_FILE} from {INCEPTION_URL}."
        ) from None


def inception_file(download: bool = True) -> Path:
    """The official weights in torch's hub cache, fetched (https, pinned release, size and SHA-256 checked) if missing.

    Raises:
        ValueError: when the cached file is not the official one.
        ConnectionError: when the download fails or is forbidden.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if path.exists():
        if file_sha256(path) != INCEPTION_SHA256:
            raise ValueError(f"{path} is damaged, its SHA-256 is not that of the official file; remove it.")
        return path
    hint = f"download {INCEPTION_URL} elsewhere and name the file with --inception-weights, or measure with 'sprites'"
    if not download:
        raise ConnectionError(f"the Inception weights are not in {path.parent} and downloads are off; {hint}.")
    return files.download(INCEPTION_URL, path, limit=INCEPTION_BYTES, sha256=INCEPTION_SHA256, hint=hint)
