"""Files that survive: each written or fetched whole or not at all, read without running code, known by its hash."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError

from hw3utils.progress import progress

if TYPE_CHECKING:  # commands that touch no tensor do not wait for torch
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


def write_tensors(path: str | Path, tensors: "Mapping[str, Tensor]") -> Path:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, lambda temporary: save_file(contiguous, temporary))


def read_tensors(path: str | Path) -> "dict[str, Tensor]":
    """Read a safetensors file to the CPU. Nothing is ever unpickled.

    Raises:
        ValueError: when the file is not safetensors (a pickle, a truncated file).
        FileNotFoundError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path.")
    from safetensors.torch import load_file

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


TIMEOUT_SECONDS = 30


class _Refused(ValueError):
    """A download that was ended because of what came."""


def download(
    url: str,
    path: str | Path,
    *,
    limit: int,
    hint: str,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Fetch a file by pooch, under a temporary name until it is whole and checked, with a progress bar.

    Args:
        url: a https address; every redirect must stay on https.
        path: the file to make; its folder is made if missing.
        limit: most bytes that it may have.
        hint: what to do where this fails, the end of each sentence.
        sha256: its hash, where it is known before.
        check: called with the temporary file; what it raises keeps the file away.

    Raises:
        ConnectionError: when the file cannot be had, or is not the one with that hash.
        ValueError: when the address leaves https, or the file is too large.
    """
    import pooch
    import requests

    path = Path(path)
    pooch.get_logger().setLevel("WARNING")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as folder:
        fetch = functools.partial(_fetch, limit=limit, hint=hint)
        try:
            pooch.retrieve(url, known_hash=sha256, fname=path.name, path=folder, downloader=fetch)
        except requests.RequestException as error:
            answer = getattr(error, "response", None)
            reason = " ".join(str(error).split()) if answer is None else f"HTTP {answer.status_code}"
            raise ConnectionError(f"Could not download {path.name} from {url} ({reason[:200]}): {hint}.") from error
        except _Refused:
            raise
        except ValueError:
            raise ConnectionError(f"What came from {url} is not the official file: {hint}.") from None
        whole = Path(folder) / path.name
        if check is not None:
            check(whole)
        whole.replace(path)
    return path


def _fetch(url: str, output: str, pooch: Any, *, limit: int, hint: str) -> None:
    """What pooch calls to copy an address into a file: over https only, and at most `limit` bytes."""
    from pooch import HTTPDownloader

    def stay_on_https(answer: Any, *_: Any, **__: Any) -> None:
        if not answer.url.startswith("https://"):
            raise _Refused(f"{url} led to {answer.url}, expected https all the way: {hint}.")

    get = HTTPDownloader(timeout=TIMEOUT_SECONDS, chunk_size=1 << 20, hooks={"response": stay_on_https})
    too_large = f"Got more than {limit} bytes from {url}, expected fewer: {hint}."
    with Path(output).open("wb") as file, progress(None, desc=f"downloading {Path(url).name}", unit="B") as bar:
        get(url, _Metered(file, limit, too_large, bar.update), pooch)


class _Metered:
    """A file that takes so many bytes and no more, and tells how many came."""

    def __init__(self, file: BinaryIO, limit: int, too_large: str, tell: Callable[[int], object]) -> None:
        self.file, self.left, self.too_large, self.tell = file, limit, too_large, tell
        self.flush = file.flush

    def write(self, block: bytes) -> None:
        """Write, or raise when it is too much."""
        self.left -= len(block)
        if self.left < 0:
            raise _Refused(self.too_large)
        self.file.write(block)
        self.tell(len(block))


def png_files(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Every PNG file below a folder, sorted by path: those to read, or those that are hidden or that macOS adds."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".png" and p.is_file())
    return [p for p in files if _hidden(p.relative_to(folder)) == hidden]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
