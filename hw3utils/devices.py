"""Where to compute: one name for CUDA, MPS and the CPU."""

import torch


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: on an unknown name, or a device that this machine lacks.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ValueError(
            f"device {str(name)!r} is not here; take auto, cpu, cuda or mps, as this machine has."
        ) from None
    return device
