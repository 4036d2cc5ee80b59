"""A line between two processes: messages of plain values and of tensors as raw bytes, over a socket; never pickle."""

import json
import math
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What one message may hold, in bytes.
MAX_MESSAGE = 256_000_000
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128),
    )
}
_HEAD = struct.Struct("!II")


class LostLine(ConnectionError):
    """The other end is gone, or sent what is no message."""


class Opaque:
    """Stands for a value that cannot cross the line; it is known by the name of its type alone."""


def pack(value: Any, refer: Callable[[Any], dict[str, Any] | None]) -> bytes:
    """A value as bytes: plain values as JSON, tensors behind them as they lie in memory.

    Args:
        value: None, numbers, text, lists, tuples, dicts, tensors, arrays.
        refer: gives the JSON of anything else, in which further values may stand; None for what cannot cross.
    """
    blobs: list[bytes] = []

    def node(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return node(value.item())
        if isinstance(value, list | tuple | range):
            return {"list": [node(part) for part in value], "tuple": isinstance(value, tuple)}
        if isinstance(value, dict):
            return {"dict": [[node(key), node(part)] for key, part in value.items()]}
        if isinstance(value, np.ndarray) and value.dtype != object:
            value = torch.as_tensor(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1).resolve_conj()
            blobs.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
            return {"tensor": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)} | (
                refer(value) or {}
            )
        given = refer(value)
        if given is None:
            return {"opaque": type(value).__name__[:80]}
        return {"refer": given["refer"]} | {key: node(part) for key, part in given.items() if key != "refer"}

    head = json.dumps(node(value)).encode()
    return _HEAD.pack(len(head), len(blobs)) + head + b"".join(blobs)


def unpack(message: bytes, resolve: Callable[[dict[str, Any], Any], Any]) -> Any:
    """The value that `pack` made bytes of.

    Args:
        message: the bytes.
        resolve: gives the value of what `refer` gave the JSON of; also sees each tensor, with its JSON.

    Raises:
        LostLine: on anything that `pack` does not make.
    """
    try:
        size, _ = _HEAD.unpack_from(message)
        rest = memoryview(message)[_HEAD.size + size :]
        tree = json.loads(message[_HEAD.size : _HEAD.size + size])
        place = 0

        def value(node: Any) -> Any:
            nonlocal place
            if not isinstance(node, dict):
                if isinstance(node, list):
                    raise LostLine("a list without its mark")
                return node
            if "list" in node:
                parts = [value(part) for part in node["list"]]
                return tuple(parts) if node["tuple"] else parts
            if "dict" in node:
                return {value(key): value(part) for key, part in node["dict"]}
            if "tensor" in node:
                dtype, shape = _DTYPES[node["tensor"]], [int(n) for n in node["shape"]]
                length = math.prod(shape) * dtype.itemsize
                if min(shape, default=0) < 0 or place + length > len(rest):
                    raise LostLine("a tensor of another size")
                raw = torch.frombuffer(bytearray(rest[place : place + length]), dtype=dtype) if length else None
                place += length
                tensor = torch.empty(shape, dtype=dtype) if raw is None else raw.reshape(shape)
                return resolve(node, tensor)
            if "opaque" in node:
                return type(str(node["opaque"]), (Opaque,), {})()
            return resolve(node, {key: value(part) for key, part in node.items() if key != "refer"})

        return value(tree)
    except (KeyError, TypeError, ValueError, struct.error, RecursionError, RuntimeError) as error:
        raise LostLine(f"no message ({type(error).__name__})") from None


class Line:
    """One end of a line. A question waits for its answer, and answers questions of the other end meanwhile.

    Args:
        connection: the socket.
        seconds: how long the whole talk may take.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection = connection
        self.until = time.monotonic() + seconds

    def refer(self, value: Any) -> dict[str, Any] | None:
        """How a value that is neither plain nor a tensor is named to the other end."""
        raise NotImplementedError

    def resolve(self, node: dict[str, Any], value: Any) -> Any:
        """The value of what the other end named."""
        raise NotImplementedError

    def answer(self, what: str, asked: dict[str, Any]) -> Any:
        """Answer a question of the other end."""
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        data = pack(message, self.refer)
        try:
            self.connection.settimeout(max(self.until - time.monotonic(), 0.01))
            self.connection.sendall(struct.pack("!Q", len(data)) + data)
        except TimeoutError:
            raise
        except OSError as error:
            raise LostLine(str(error)) from None

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            LostLine: the other end is gone, or its message is too large or none.
            TimeoutError: the time is over.
        """
        [length] = struct.unpack("!Q", self._read(8))
        if length > MAX_MESSAGE:
            raise LostLine(f"a message of {length / 1e6:.0f} MB")
        message = unpack(self._read(length), self.resolve)
        if not isinstance(message, dict):
            raise LostLine("no message")
        return message

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            self.connection.settimeout(max(self.until - time.monotonic(), 0.01))
            try:
                part = self.connection.recv(min(size, 1 << 20))
            except TimeoutError:
                raise
            except OSError as error:
                raise LostLine(str(error)) from None
            if not part:
                raise LostLine("the other end is gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def ask(self, what: str, **asked: Any) -> Any:
        """Ask the other end, and answer what it asks until it answers.

        Raises:
            RuntimeError: what went wrong there, or an error of the same name that Python has.
        """
        self.send({"ask": what} | asked)
        while True:
            message = self.receive()
            if "ask" in message:
                self.reply(message)
            elif "error" in message:
                raise error_of(message["error"])
            else:
                return message.get("answer")

    def reply(self, message: dict[str, Any]) -> None:
        """Answer one question, with the error if there is one."""
        try:
            answered = {"answer": self.answer(str(message["ask"]), message)}
        except (LostLine, TimeoutError):
            raise
        except BaseException as error:  # also SystemExit of a student's function
            answered = {"error": [type(error).__name__, str(error)[:1000]]}
        self.send(answered)


class OtherSide(Exception):
    """What went wrong at the other end; `name` is that of its type."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def error_of(given: Any) -> OtherSide:
    """The error that the other end has named."""
    name, text = given if isinstance(given, list) and len(given) == 2 else ("Error", "")
    return OtherSide(str(name)[:80], "".join(c if c.isprintable() else " " for c in str(text))[:1000])


class Door:
    """Where the judge waits for a student's process: a socket in a folder of its own, and a key.

    Windows, whose Python has no sockets in folders, takes a port of this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.key = secrets.token_hex(16)
        if hasattr(socket, "AF_UNIX") and sys.platform != "win32":
            self.address: Any = str(folder / f"{secrets.token_hex(4)}.sock")
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.address = ["127.0.0.1", 0]
            self.socket = socket.socket(socket.AF_INET)
        self.socket.bind(self.address if isinstance(self.address, str) else tuple(self.address))
        if not isinstance(self.address, str):
            self.address = list(self.socket.getsockname())
        self.socket.listen(4)

    def accept(self, seconds: float) -> socket.socket:
        """The connection of the one who knows the key.

        Raises:
            TimeoutError: nobody came.
        """
        until = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(until - time.monotonic(), 0.01))
            connection, _ = self.socket.accept()
            connection.settimeout(5)
            try:
                given = connection.recv(len(self.key), socket.MSG_WAITALL)
            except OSError:
                given = b""
            if secrets.compare_digest(given, self.key.encode()):
                return connection
            connection.close()

    def close(self) -> None:
        """Close it, and remove the socket's file."""
        self.socket.close()
        if isinstance(self.address, str):
            Path(self.address).unlink(missing_ok=True)


def knock(address: Any, key: str) -> socket.socket:
    """Connect to a door."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    connection = socket.socket(family)
    connection.connect(address if isinstance(address, str) else tuple(address))
    connection.sendall(key.encode())
    return connection
