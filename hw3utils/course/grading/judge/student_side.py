"""The student's end of the connection: it runs in the student's kernel and gives the judge functions and values.

Nothing here is trusted: the judge receives only values. torch is not imported here (see `connection`).
"""

import contextlib
import sys
from collections.abc import MutableMapping
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from hw3utils.course.grading.judge.connection import Connection, ConnectionLost, connect, is_a

if TYPE_CHECKING:
    from torch import Tensor


def serve(address: str, key: str, namespace: MutableMapping[str, Any]) -> None:
    """Answer the requests of the judge until it is done."""
    StudentConnection(connect(address, key), namespace).work()


class StudentConnection(Connection):
    """The student's functions, values and gradients."""

    def __init__(self, channel: connection.Connection, namespace: MutableMapping[str, Any]) -> None:
        super().__init__(channel, seconds=10**6)
        self.namespace = namespace
        self.replaced: dict[str, Any] = {}
        self.done = False
        # The proxies of the judge's objects, by number.
        self.proxies: dict[int, Any] = {}
        # The arguments of the current call, each with a copy; its results with a graph.
        self.arguments: list[tuple[Tensor, Tensor]] = []
        self.results: list[Tensor] = []
        self.sending_result = False

    def work(self) -> None:
        """Answer until the judge is done; then restore the names that it bound."""
        try:
            while not self.done:
                self.reply(self.receive())
        except ConnectionLost:
            pass
        finally:
            self.channel.close()
            self.namespace.update(self.replaced)

    def __deepcopy__(self, memo: dict) -> "StudentConnection":
        return self

    def encode(self, value: Any) -> dict[str, Any] | None:
        """Tensors with a graph can be differentiated by the judge; no other object is sent."""
        if is_a(value, "torch", "Tensor") and self.sending_result and value.requires_grad:
            self.results.append(value)
            return {"graph": len(self.results) - 1}
        return None

    def decode(self, node: dict[str, Any], value: Any) -> Any:
        """The proxy of a judge's object, created once."""
        if is_a(value, "torch", "Tensor"):
            if "argument" in node:
                self.arguments.append((value, value.clone()))
            return value
        from hw3utils.course.grading.judge.proxies import proxy

        kind = node["refer"]
        if kind == "schedule":
            return proxy(self, kind, value)
        number = value["number"]
        if number not in self.proxies:
            self.proxies[number] = proxy(self, kind, value)
        if kind == "generator":
            self.proxies[number].set_state(value["state"])
        return self.proxies[number]

    def answer(self, request: str, message: dict[str, Any]) -> Any:
        """The requests of the judge."""
        if request == "look_up":
            return {name: self._look_up(name) for name in message["names"]}
        if request == "bind":
            for name, value in message["values"].items():
                if name in self.namespace:
                    self.replaced.setdefault(name, self.namespace[name])
                    self.namespace[name] = value
            return None
        if request == "call":
            return self._call(message)
        if request == "gradient":
            self.sending_result = False
            self.results[message["graph"]].backward(message["gradient"], retain_graph=True)
            return None
        self.done = True
        return None

    def _look_up(self, name: str) -> dict[str, Any]:
        if name not in self.namespace:
            return {"is": "missing"}
        value = self.namespace[name]
        return {"is": "function"} if callable(value) else {"is": "value", "value": value}

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call a function; its value, and the arguments, generators and weights that it changed."""
        arguments, self.arguments, self.results = self.arguments, [], []
        self.sending_result = False
        torch = sys.modules.get("torch")
        with torch.set_grad_enabled(message["grad"]) if torch else contextlib.nullcontext():
            value = self.namespace[message["name"]](*message["args"], **message["kwargs"])
        changed = [[n, now.detach()] for n, (now, before) in enumerate(arguments) if not now.equal(before)]
        proxies = self.proxies.items()
        states = [[n, proxy.get_state()] for n, proxy in proxies if is_a(proxy, "torch", "Generator")]
        weights = [[n, proxy.state()] for n, proxy in proxies if hasattr(proxy, "weight")]
        self.sending_result = True
        return {"value": value, "changed": changed, "states": states, "weights": weights}
