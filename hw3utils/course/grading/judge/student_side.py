"""The student's end of the connection: it runs in the student's kernel and gives the judge functions and values.

Nothing here is trusted: the judge receives only values.
"""

from collections.abc import MutableMapping
from multiprocessing import connection
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.course.grading.judge.connection import Connection, ConnectionLost, connect
from hw3utils.schedules import NoiseSchedule


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
        if isinstance(value, Tensor) and self.sending_result and value.requires_grad:
            self.results.append(value)
            return {"graph": len(self.results) - 1}
        return None

    def decode(self, node: dict[str, Any], value: Any) -> Any:
        """The proxy of a judge's object, created once."""
        if isinstance(value, Tensor):
            if "argument" in node:
                self.arguments.append((value, value.clone()))
            return value
        kind = node["refer"]
        if kind == "schedule":
            return NoiseSchedule(value["beta"], name=value["name"], parameters=value["parameters"])
        number = value["number"]
        if number not in self.proxies:
            if kind == "function":
                self.proxies[number] = _RemoteFunction(self, number)
            elif kind == "network":
                self.proxies[number] = _RemoteNetwork(self, number, value["weights"])
            elif kind == "generator":
                self.proxies[number] = torch.Generator()
            elif kind == "optimizer":
                weights = [self.proxies[owner].weight(name) for owner, name in value["weights"]]
                self.proxies[number] = getattr(torch.optim, value["name"])(weights, **value["settings"])
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
            torch.autograd.backward(self.results[message["graph"]], message["gradient"], retain_graph=True)
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
        with torch.set_grad_enabled(message["grad"]):
            value = self.namespace[message["name"]](*message["args"], **message["kwargs"])
        changed = [[n, now.detach()] for n, (now, before) in enumerate(arguments) if not torch.equal(now, before)]
        states = [[n, g.get_state()] for n, g in self.proxies.items() if isinstance(g, torch.Generator)]
        weights = [[n, m.state()] for n, m in self.proxies.items() if isinstance(m, _RemoteNetwork)]
        self.sending_result = True
        return {"value": value, "changed": changed, "states": states, "weights": weights}


class _RemoteFunction:
    """A function of the judge, differentiable by its arguments."""

    def __init__(self, connection: StudentConnection, number: int) -> None:
        self.connection, self.number = connection, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _compute(self.connection, self.number, args, kwargs, {})


class _RemoteNetwork(nn.Module):
    """A network of the judge: its weights are here and can be trained, its forward pass runs in the judge."""

    def __init__(self, connection: StudentConnection, number: int, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.connection, self.number = connection, number
        self.names = {name: f"weight_{n}" for n, name in enumerate(weights)}
        for name, attribute in self.names.items():
            setattr(self, attribute, nn.Parameter(weights[name]))

    def weight(self, name: str) -> nn.Parameter:
        """A parameter by its name in the judge's network."""
        return getattr(self, self.names[name])

    def state(self) -> dict[str, Tensor]:
        """The current parameters."""
        return {name: self.weight(name).detach() for name in self.names}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        small = sum(parameter.numel() for parameter in self.parameters()) < 100_000
        weights: dict[str, Tensor] = {name: self.weight(name) for name in self.names} if small else {}
        return _compute(self.connection, self.number, args, kwargs, weights)


def _compute(connection: StudentConnection, number: int, args: tuple, kwargs: dict, weights: dict[str, Tensor]) -> Any:
    """Have the judge compute one of its functions."""
    connection.sending_result = False
    if not torch.is_grad_enabled():
        message = {"number": number, "args": list(args), "kwargs": kwargs, "weights": weights, "grad": False}
        return connection.request("compute", **message)["value"]
    anchor = torch.zeros((), requires_grad=True)
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return _RemoteValue.apply(connection, number, args, kwargs, list(weights), anchor, *tensors, *weights.values())


class _RemoteValue(torch.autograd.Function):
    """A value computed by the judge; its gradients are requested from the judge."""

    @staticmethod
    def forward(
        ctx: Any, connection: StudentConnection, number: int, args: tuple, kwargs: dict, names: list, *tensors: Any
    ) -> Any:
        weights = dict(zip(names, tensors[len(tensors) - len(names) :], strict=True))
        needs_grad, k = [], 6
        for arg in args:
            needs_grad.append(isinstance(arg, Tensor) and ctx.needs_input_grad[k])
            k += isinstance(arg, Tensor)
        message = {"number": number, "args": list(args), "kwargs": kwargs, "weights": weights}
        result = connection.request("compute", **message, grad=True, needs_grad=needs_grad)
        ctx.connection, ctx.graph, ctx.names = connection, result["graph"], names
        ctx.is_tensor = [isinstance(arg, Tensor) for arg in args]
        if result["graph"] is None and isinstance(result["value"], Tensor):
            ctx.mark_non_differentiable(result["value"])
        return result["value"]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.connection.sending_result = False
        result = ctx.connection.request("backward", graph=ctx.graph, gradient=gradient)
        by_args = [grad for grad, tensor in zip(result["args"], ctx.is_tensor, strict=True) if tensor]
        return (None,) * 6 + (*by_args, *(result["weights"].get(name) for name in ctx.names))
