"""A tiny UNet, folders and sheets of pictures, and signals, for the tests of training, files and commands."""

import signal

import numpy as np
import psutil
from PIL import Image

from hw3utils.learning.networks import UNet
from hw3utils.learning.training import seeded

SIZES = {"widths": (8, 16), "blocks_down": (1, 1), "blocks_up": (1, 1), "groups": 4, "time_width": 16}


def unet(seed=0, **options):
    """A UNet of these sizes with initial weights by seed."""
    return seeded(lambda: UNet(**SIZES | options), seed)


def same_state(a, b):
    """Whether two networks have the same weights, bit by bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def picture_folder(images, folder):
    """A folder of PNG files with these pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k:02d}.png")
    return folder


def opaque(images):
    """RGB pictures with an alpha channel of 255."""
    return np.concatenate([images, np.full((*images.shape[:-1], 1), 255, np.uint8)], axis=-1)


def default_signals():
    """`preexec_fn` of a process that will be stopped: under `nohup` or in the background it would ignore signals."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def is_running(number):
    """Whether a process is running; one that has ended may stay in the table of processes until its parent asks."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
