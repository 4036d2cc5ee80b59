"""Files that survive: each written whole or not at all, read without running code, and known by its hash."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name beside its own, then rename: a reader sees the old file or the new one.

    Args:
        path: the file to make; its folder is made if missing.
        write: called with the temporary path.

    Raises:
        OSError: in one sentence, when the folder cannot be written or the disk is full; the old file is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"could not write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def check_writable(folder: str | Path) -> Path:
    """Make a folder if it is missing and see that a file can be written there, before long work that ends in one.

    Raises:
        OSError: in one sentence, when it cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"could not write to the folder {folder} ({error.strerror}); choose another one.") from error
    return folder


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: when the file is not JSON, or not an object.
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not readable as JSON; it may be cut off, or another kind of file.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors as safetensors, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, lambda temporary: save_file(contiguous, temporary))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU. Nothing is ever unpickled.

    Raises:
        ValueError: when the file is not safetensors (a pickle, a truncated file).
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); only safetensors are read, never pickles."
        ) from None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
