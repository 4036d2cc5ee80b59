"""The judge's end of the connection: the student's names as functions and values, its own objects as proxies."""

from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.course.grading.judge.connection import Connection, RemoteError
from hw3utils.schedules import NoiseSchedule


class MissingName:
    """Placeholder for a name that the student has not defined; every use raises NameError."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _raise(self, *args: Any, **kwargs: Any) -> Any:
        raise RemoteError("NameError", f"name '{self.name}' is not defined")

    __call__ = __iter__ = __getitem__ = __contains__ = __len__ = __float__ = _raise


class JudgeConnection(Connection):
    """What the checks need from a student's process."""

    def __init__(self, channel: connection.Connection, seconds: float) -> None:
        super().__init__(channel, seconds)
        self.objects: list[Any] = []
        # Tensors of the current call that the student's function may have changed, in the order of sending.
        self.arguments: list[Tensor] = []
        self.sending_call = False
        self.copies: dict[int, Tensor] = {}
        self.graphs: list[tuple[Tensor, list, dict[str, nn.Parameter]]] = []
        # Leaves of the judge's graphs that are no arguments, and their gradients.
        self.leaves: dict[int, Tensor] = {}
        self.leaf_gradients: dict[int, Tensor] = {}

    def look_up(self, names: list[str]) -> dict[str, Any]:
        """The student's functions and values of these names; a missing one raises when it is used."""
        found = self.request("look_up", names=names)
        values = {}
        for name in names:
            entry = found.get(name, {}) if isinstance(found, dict) else {}
            kind = entry.get("is") if isinstance(entry, dict) else None
            values[name] = entry.get("value") if kind == "value" else self._function(name, kind)
        return values

    def bind(self, values: dict[str, Any]) -> None:
        """Assign the judge's objects to the student's names, until the end of the conversation."""
        self.request("bind", values=values)

    def finish(self) -> None:
        """End the conversation."""
        self.request("finish")

    def _function(self, name: str, kind: str | None) -> Callable[..., Any]:
        if kind != "function":
            return MissingName(name)

        def function(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        return function

    def _call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a student's function. A tensor that it changed becomes invalid, unless it was passed in a list."""
        self.graphs, self.leaves, self.arguments = [], {}, []
        in_lists = {id(part) for arg in args if isinstance(arg, list) for part in arg}
        self.sending_call = True
        result = self.request("call", name=name, args=list(args), kwargs=kwargs, grad=torch.is_grad_enabled())
        for n, now in result["changed"]:
            tensor = self.arguments[n]
            with torch.no_grad():
                # A changed argument must not decide the check: it is replaced by an invalid one.
                if id(tensor) in in_lists and now.shape == tensor.shape:
                    tensor.copy_(now)
                elif tensor.is_floating_point():
                    tensor.fill_(float("nan"))
                else:
                    tensor.fill_(tensor.flatten()[0] == 0 if tensor.numel() else 0)
        for number, state in result["states"]:
            if isinstance(self.objects[number], torch.Generator):
                self.objects[number].set_state(state)
        for number, weights in result["weights"]:
            _load_weights(self.objects[number], weights)
        return result["value"]

    def encode(self, value: Any) -> dict[str, Any] | None:
        """How the student's process builds its proxy."""
        if isinstance(value, Tensor):
            if self.sending_call and id(value) not in self.copies:
                self.arguments.append(value)
                return {"argument": True}
            return None
        if isinstance(value, NoiseSchedule):
            beta = self._copy(value.beta)
            return {"refer": "schedule", "beta": beta, "name": value.name, "parameters": dict(value.parameters)}
        number = next((n for n, known in enumerate(self.objects) if known is value), None)
        if number is None:
            self.objects.append(value)
            number = len(self.objects) - 1
        if isinstance(value, torch.Generator):
            return {"refer": "generator", "number": number, "state": self._copy(value.get_state())}
        if isinstance(value, nn.Module):
            weights = {name: self._copy(parameter) for name, parameter in value.named_parameters()}
            return {"refer": "network", "number": number, "weights": weights}
        if isinstance(value, torch.optim.Optimizer):
            owners = [list(self._owner(p)) for group in value.param_groups for p in group["params"]]
            named = {"name": type(value).__name__, "weights": owners, "settings": {"lr": value.defaults["lr"]}}
            return {"refer": "optimizer", "number": number} | named
        return {"refer": "function", "number": number} if callable(value) else None

    def _copy(self, tensor: Tensor) -> Tensor:
        """A copy that is sent as a part of another object: not an argument that a student's function could change."""
        copy = tensor.detach().clone()
        self.copies[id(copy)] = copy
        return copy

    def _owner(self, parameter: nn.Parameter) -> tuple[int, str]:
        """Number of the network that has the parameter, and the parameter's name."""
        for number, known in enumerate(self.objects):
            if isinstance(known, nn.Module):
                for name, other in known.named_parameters():
                    if other is parameter:
                        return number, name
        raise ValueError("an optimizer must be passed after its network.")

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; only the tensors of a call are arguments."""
        super().send(message)
        self.sending_call, self.copies = False, {}

    def decode(self, node: dict[str, Any], value: Any) -> Any:
        """A tensor of the student's, with its graph; other objects are not accepted."""
        if isinstance(value, Tensor):
            graph = node.get("graph")
            if isinstance(graph, int):
                return _StudentResult.apply(self, graph, value, *self.leaves.values())
            return value
        raise ValueError("a student's process sends values only.")

    def answer(self, request: str, message: dict[str, Any]) -> Any:
        """Requests of a running student's function: the value or the gradient of a judge's function."""
        if request == "compute":
            return self._compute(message)
        if request == "backward":
            result, args, weights = self.graphs[message["graph"]]
            inputs = [arg for arg in args if arg is not None]
            sources = [*inputs, *weights.values(), *self.leaves.values()]
            grads = torch.autograd.grad(result, sources, message["gradient"], retain_graph=True, allow_unused=True)
            by_id = {id(source): grad for source, grad in zip(sources, grads, strict=True)}
            for number in self.leaves:
                if by_id[number] is not None:
                    self.leaf_gradients[number] = self.leaf_gradients.get(number, 0) + by_id[number]
            return {
                "args": [None if arg is None else by_id[id(arg)] for arg in args],
                "weights": {name: by_id[id(weight)] for name, weight in weights.items()},
            }
        raise ValueError(f"the judge does not answer {request!r}.")

    def _compute(self, message: dict[str, Any]) -> dict[str, Any]:
        """A function's value; its graph is kept if it has one."""
        target, args = self.objects[message["number"]], message["args"]
        if not callable(target):
            raise TypeError("not a function.")
        needs_grad = message.get("needs_grad") or [False] * len(args)
        if message["weights"]:
            _load_weights(target, message["weights"])
        for arg, needed in zip(args, needs_grad, strict=True):
            if needed:
                arg.requires_grad_()
        with torch.set_grad_enabled(bool(message["grad"])):
            value = target(*args, **message["kwargs"])
        if not (isinstance(value, Tensor) and value.requires_grad):
            return {"value": value, "graph": None}
        weights = dict(target.named_parameters()) if isinstance(target, nn.Module) else {}
        inputs = [arg if needed else None for arg, needed in zip(args, needs_grad, strict=True)]
        known = {id(tensor) for tensor in (*args, *weights.values())}
        self.leaves |= {id(leaf): leaf for leaf in _leaves(value) if id(leaf) not in known}
        self.graphs.append((value, inputs, weights))
        return {"value": value.detach(), "graph": len(self.graphs) - 1}


def _load_weights(network: Any, weights: dict[str, Tensor]) -> None:
    """Copy received weights of the right names and shapes into a network."""
    own = dict(network.named_parameters()) if isinstance(network, nn.Module) else {}
    with torch.no_grad():
        for name, value in weights.items():
            if name in own and isinstance(value, Tensor) and value.shape == own[name].shape:
                own[name].copy_(value)


def _leaves(value: Tensor) -> list[Tensor]:
    """The leaf tensors of a graph."""
    found, left, seen = [], [value.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        left += [before for before, _ in node.next_functions]
    return found


class _StudentResult(torch.autograd.Function):
    """A student's result; its gradient by the leaves of the judge's graphs is requested from the student's process."""

    @staticmethod
    def forward(ctx: Any, connection: JudgeConnection, graph: int, value: Tensor, *leaves: Tensor) -> Tensor:
        ctx.connection, ctx.graph, ctx.leaves = connection, graph, [id(leaf) for leaf in leaves]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.connection.leaf_gradients = {}
        ctx.connection.request("gradient", graph=ctx.graph, gradient=gradient)
        return (None, None, None, *(ctx.connection.leaf_gradients.get(leaf) for leaf in ctx.leaves))
