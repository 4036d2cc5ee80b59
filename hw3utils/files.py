"""Atomic writes and verified downloads; JSON and safetensors, read without running code."""

import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError

from hw3utils.progress import progress

if TYPE_CHECKING:  # commands that use no tensor do not import torch
    from torch import Tensor


def expanded(path: str | Path) -> Path:
    """A path whose leading `~` is replaced by the home folder.

    Raises:
        OSError: when this user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise OSError(f"{path} begins with ~, but this user has no home folder; write the path out.") from None


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name in the same folder, then rename it: readers see the old file or the new one.

    A link is followed. The mode is that of the old file, or follows the umask. A pipe or device is written to directly.

    Args:
        path: the file to write; its folder is made if missing.
        write: called with the temporary path.

    Raises:
        OSError: when the folder cannot be written or the disk is full; the old file is unchanged.
    """
    path, temporary = Path(path), None
    try:
        if _is_stream(path):
            return _write_to_stream(path, write)
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file_beside(target)
        mode = (target if target.is_file() else temporary).stat().st_mode
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(mode))  # a writer may have made a file of its own, as that of safetensors does
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"could not write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or a link to an open file such as /dev/stdout: not to be replaced."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or os.path.realpath(path).startswith("/proc/") or _links_to_open_file(path)


def _links_to_open_file(path: Path) -> bool:
    """Whether a chain of links goes through /proc/PID/fd."""
    for _ in range(40):  # the kernel's own limit
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
        if os.path.realpath(path.parent).startswith("/proc/"):
            return True
    return False


def _write_to_stream(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file elsewhere and append its bytes to a pipe or device."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "file"
        write(temporary)
        with temporary.open("rb") as source, path.open("ab", buffering=0) as target:
            shutil.copyfileobj(source, target)
    return path


def _new_file_beside(target: Path) -> Path:
    """Make an empty hidden file in the folder of another one, with the mode that the umask gives."""
    name = os.fsencode(target.name)
    # The additions must fit in the file system's limit, 255 bytes.
    label = target.name if len(name) <= 200 else hashlib.sha256(name).hexdigest()[:32]
    path = target.parent / f".{label}.{secrets.token_hex(4)}.part"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def check_writable(folder: str | Path) -> Path:
    """Make a folder if it is missing and check that files can be written there, before long work that ends in one.

    Raises:
        OSError: when it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"could not write to the folder {folder} ({error.strerror}); choose another one.") from error
    return folder


def check_output(path: str | Path) -> Path:
    """Check that a file can be written under a name, before long work that ends in it.

    Raises:
        OSError: when it is a folder, the name is too long, or its folder cannot be written to.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_stream(path):
            return path
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OSError(f"could not write {path} ({error.strerror}); choose another name.") from error
    check_writable(Path(os.path.realpath(path)).parent)
    return path


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
        raise ValueError(f"{path} is not readable as JSON; it may be truncated, or another kind of file.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value


def write_tensors(path: str | Path, tensors: "Mapping[str, Tensor]") -> Path:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        stored[name] = tensor.detach().cpu().contiguous()
        # The format has no tensors that share memory, as tied weights do.
        if stored[name].untyped_storage().data_ptr() in seen:
            stored[name] = stored[name].clone()
        seen.add(stored[name].untyped_storage().data_ptr())
    return write_atomically(path, lambda temporary: save_file(stored, temporary))


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
            f"{path} is not a complete safetensors file ({error}); only safetensors are read, never pickles."
        ) from None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TIMEOUT_SECONDS = 30


class _DownloadRefusedError(ValueError):
    """A download that was ended: it left https, or was too large."""


def download(
    url: str,
    path: str | Path,
    *,
    limit: int,
    hint: str,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Download a file, under a temporary name until it is complete and verified, with a progress bar.

    Args:
        url: a https address; every redirect must stay on https.
        path: the file to write; its folder is made if missing.
        limit: most bytes that it may have.
        hint: what to do when this fails, the end of each message.
        sha256: its hash, if known.
        check: called with the temporary file; when it raises, the file is not kept.

    Raises:
        ConnectionError: when the download fails, or the file has another hash.
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
            raise ConnectionError(f"could not download {path.name} from {url} ({reason[:200]}): {hint}.") from error
        except _DownloadRefusedError:
            raise
        except ValueError:
            raise ConnectionError(f"the file from {url} does not have the expected SHA-256: {hint}.") from None
        complete = Path(folder) / path.name
        if check is not None:
            check(complete)
        complete.replace(path)
    return path


def _fetch(url: str, output: str, pooch: Any, *, limit: int, hint: str) -> None:
    """Downloader for pooch: over https only, and at most `limit` bytes."""
    from pooch import HTTPDownloader

    def stay_on_https(answer: Any, *_: Any, **__: Any) -> None:
        if not answer.url.startswith("https://"):
            raise _DownloadRefusedError(f"{url} led to {answer.url}, expected https all the way: {hint}.")

    get = HTTPDownloader(timeout=TIMEOUT_SECONDS, chunk_size=1 << 20, hooks={"response": stay_on_https})
    too_large = f"Got more than {limit} bytes from {url}, expected fewer: {hint}."
    with Path(output).open("wb") as file, progress(None, desc=f"downloading {Path(url).name}", unit="B") as bar:
        get(url, _LimitedWriter(file, limit, too_large, bar.update), pooch)


class _LimitedWriter:
    """A file that takes at most `limit` bytes and reports each write."""

    def __init__(self, file: BinaryIO, limit: int, too_large: str, report: Callable[[int], object]) -> None:
        self.file, self.left, self.too_large, self.report = file, limit, too_large, report
        self.flush = file.flush

    def write(self, block: bytes) -> None:
        """Write, or raise when the limit is exceeded."""
        self.left -= len(block)
        if self.left < 0:
            raise _DownloadRefusedError(self.too_large)
        self.file.write(block)
        self.report(len(block))
