"""Messages between the judge and a student's process: JSON and safetensors over `multiprocessing.connection`.

Only `send_bytes` and `recv_bytes` are used: nothing is ever pickled. torch is imported with the first tensor, so that
the kernel of a notebook without any starts sooner.
"""

import contextlib
import json
import secrets
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError, connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    from torch import Tensor

# Bytes of one part of a message.
MAX_MESSAGE = 256_000_000


class ConnectionLost(ConnectionError):
    """The other side is gone, or sent an invalid message."""


class RemoteError(Exception):
    """An exception of the other side; `name` is the name of its type."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name

    @classmethod
    def parse(cls, sent: Any) -> "RemoteError":
        """The error in a message, without control characters."""
        name, text = sent if isinstance(sent, list) and len(sent) == 2 else ("Error", "")
        return cls(*("".join(c if c.isprintable() else " " for c in str(part))[:1000] for part in (name, text)))


class Opaque:
    """Placeholder for a value that cannot be sent; only the name of its type is."""


def is_a(value: Any, module: str, name: str) -> bool:
    """Whether a value is an instance of a class of a module; the module is not imported for it."""
    loaded = sys.modules.get(module)
    return isinstance(value, getattr(loaded, name, ()))


Encode = Callable[[Any], dict[str, Any] | None]
Decode = Callable[[dict[str, Any], Any], Any]


def pack(value: Any, encode: Encode) -> tuple[bytes, bytes]:
    """Serialise a value to JSON and the tensors in it to safetensors.

    Args:
        value: None, numbers, text, lists, tuples, dicts, tensors, arrays.
        encode: returns the JSON for any other object, with "refer" and further values; None if it cannot be sent.
            It is also called for tensors, and what it returns is stored beside them.
    """
    tensors: dict[str, Tensor] = {}

    def node(value: Any) -> Any:
        value = value.item() if is_a(value, "numpy", "generic") else value
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple | range):
            return {"list": [node(part) for part in value], "tuple": isinstance(value, tuple)}
        if isinstance(value, dict):
            return {"dict": [[node(key), node(part)] for key, part in value.items()]}
        if is_a(value, "torch", "Tensor") or (is_a(value, "numpy", "ndarray") and value.dtype != object):
            return tensor_node(value)
        encoded = encode(value)
        if encoded is None:
            return {"opaque": type(value).__name__[:80]}
        return {"refer": encoded["refer"]} | {key: node(part) for key, part in encoded.items() if key != "refer"}

    def tensor_node(value: Any) -> dict[str, Any]:
        import torch

        # A copy: safetensors wants dense tensors that share no memory. It has no complex128.
        try:
            value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value.copy(order="C"))
            flat = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach().as_subclass(torch.Tensor))
        except (RuntimeError, TypeError):  # sparse, quantized
            return {"opaque": type(value).__name__[:80]}
        name = f"{len(tensors)}"
        tensors[name] = torch.view_as_real(flat) if flat.is_complex() else flat
        return {"tensor": name, "complex": flat.is_complex()} | (encode(value) or {})

    text = json.dumps(node(value)).encode()
    if not tensors:
        return text, b""
    import safetensors.torch

    return text, safetensors.torch.save(tensors)


def unpack(text: bytes, data: bytes, decode: Decode) -> Any:
    """The inverse of `pack`.

    Args:
        text, data: both parts of the message.
        decode: returns the object for the JSON of `encode`; it is also called with each tensor and its JSON.

    Raises:
        ConnectionLost: on anything that `pack` does not produce.
    """
    try:
        tensors = _tensors(data)

        def value(node: Any) -> Any:
            if isinstance(node, list):
                raise ConnectionLost("a list without its type")
            if not isinstance(node, dict):
                return node
            if "list" in node:
                parts = [value(part) for part in node["list"]]
                return tuple(parts) if node["tuple"] else parts
            if "dict" in node:
                return {value(key): value(part) for key, part in node["dict"]}
            if "tensor" in node:
                tensor = tensors[node["tensor"]]
                return decode(node, sys.modules["torch"].view_as_complex(tensor) if node["complex"] else tensor)
            if "opaque" in node:
                return type(str(node["opaque"]), (Opaque,), {})()
            return decode(node, {key: value(part) for key, part in node.items() if key != "refer"})

        return value(json.loads(text))
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, RuntimeError, SafetensorError) as error:
        raise ConnectionLost(f"invalid message ({type(error).__name__})") from None


def _tensors(data: bytes) -> dict[str, "Tensor"]:
    """The tensors of a message; most have none."""
    if not data:
        return {}
    import safetensors.torch

    return safetensors.torch.load(data)


class Connection:
    """One end of a connection. A request waits for its answer, and answers requests of the other end meanwhile.

    Args:
        channel: the underlying connection.
        seconds: time limit of the conversation.
    """

    def __init__(self, channel: connection.Connection, seconds: float) -> None:
        self.channel = channel
        self.deadline = time.monotonic() + seconds

    def encode(self, value: Any) -> dict[str, Any] | None:
        """The JSON for a value that is neither plain nor a tensor."""
        raise NotImplementedError

    def decode(self, node: dict[str, Any], value: Any) -> Any:
        """The object for the JSON of the other end."""
        raise NotImplementedError

    def answer(self, request: str, message: dict[str, Any]) -> Any:
        """Answer a request of the other end."""
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; raises ConnectionLost."""
        try:
            for part in pack(message, self.encode):
                self.channel.send_bytes(part)
        except OSError as error:
            raise ConnectionLost(str(error)) from None

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            ConnectionLost: the other end is gone, or its message is too large or invalid.
            TimeoutError: the time limit is over.
        """
        message = unpack(self._receive_bytes(), self._receive_bytes(), self.decode)
        if not isinstance(message, dict):
            raise ConnectionLost("invalid message")
        return message

    def _receive_bytes(self) -> bytes:
        try:
            ready = self.channel.poll(max(self.deadline - time.monotonic(), 0))
            # A part that is begun and not finished blocks here; the grader then ends this process.
            part = self.channel.recv_bytes(MAX_MESSAGE) if ready else None
        except (OSError, EOFError) as error:
            raise ConnectionLost(str(error) or "the other side is gone") from None
        if part is None:
            raise TimeoutError
        return part

    def request(self, request: str, /, **message: Any) -> Any:
        """Send a request, and answer those of the other end until its answer arrives.

        Raises:
            RemoteError: an exception of the other end.
        """
        self.send({"request": request} | message)
        while True:
            received = self.receive()
            if "request" in received:
                self.reply(received)
            elif "error" in received:
                raise RemoteError.parse(received["error"])
            else:
                return received.get("answer")

    def reply(self, message: dict[str, Any]) -> None:
        """Answer one request, or send its exception."""
        try:
            answered = {"answer": self.answer(str(message["request"]), message)}
        except (ConnectionLost, TimeoutError):
            raise
        except BaseException as error:  # also SystemExit of a student's function
            answered = {"error": [type(error).__name__, str(error)[:1000]]}
        self.send(answered)


class Listener:
    """Where the judge waits for a student's process: a socket in a folder (a pipe on Windows), and a key."""

    def __init__(self, folder: Path) -> None:
        self.key = secrets.token_hex(16)
        local = hasattr(socket, "AF_UNIX") and sys.platform != "win32"
        address = str(folder / f"{secrets.token_hex(4)}.sock") if local else None
        self.listener = connection.Listener(address, authkey=self.key.encode())
        self.address: str = self.listener.address

    def accept(self) -> connection.Connection:
        """Wait for a process that knows the key. The grader connects itself when a student's process does not."""
        while True:
            with contextlib.suppress(AuthenticationError, EOFError, OSError):
                return self.listener.accept()

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()


def connect(address: str, key: str) -> connection.Connection:
    """Connect to a listener."""
    return connection.Client(address, authkey=key.encode())
