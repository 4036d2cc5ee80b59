"""The judge's end of the line: a student's names as functions and values, his own objects as the student meets them."""

import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.course.grading.judge.connection import Line, OtherSide
from hw3utils.schedules import NoiseSchedule


class Missing:
    """Stands for a name that the student has not given; whatever is done with it says so."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _say(self, *args: Any, **kwargs: Any) -> Any:
        raise OtherSide("NameError", f"name '{self.name}' is not defined")

    __call__ = __iter__ = __getitem__ = __contains__ = __len__ = __float__ = _say


class JudgeEnd(Line):
    """What checks need of a student's process."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__(connection, seconds)
        self.objects: list[Any] = []
        self.arguments: list[Tensor] = []
        self.sending = False
        self.shown: dict[int, Tensor] = {}
        self.graphs: list[tuple[Tensor, list, dict[str, nn.Parameter]]] = []
        self.hidden: dict[int, Tensor] = {}
        self.gathered: dict[int, Tensor] = {}

    def look(self, names: list[str]) -> dict[str, Any]:
        """What the student has under these names: functions and values; a missing one says so when it is used."""
        found = self.ask("look", names=names)
        values = {}
        for name in names:
            seen = found.get(name, {}) if isinstance(found, dict) else {}
            kind = seen.get("is") if isinstance(seen, dict) else None
            values[name] = seen.get("value") if kind == "value" else self._function(name, kind)
        return values

    def bind(self, values: dict[str, Any]) -> None:
        """Put objects of the judge's under the student's names, until the talk is over."""
        self.ask("bind", values=values)

    def end(self) -> None:
        """Let the student's process go on."""
        self.ask("end")

    def _function(self, name: str, kind: str | None) -> Callable[..., Any]:
        if kind != "function":
            return Missing(name)

        def function(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        return function

    def _call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a function of the student's. A tensor that it changed is lost, unless it was given in a list."""
        self.graphs, self.hidden, self.arguments = [], {}, []
        listed = {id(part) for arg in args if isinstance(arg, list) for part in arg}
        message = {"name": name, "args": list(args), "kwargs": kwargs, "grad": torch.is_grad_enabled()}
        self.sending = True
        done = self.ask("call", **message)
        for n, now in done["changed"]:
            tensor = self.arguments[n]
            with torch.no_grad():
                # Whoever changes what he was only shown must not be judged by what he made of it.
                if id(tensor) in listed and now.shape == tensor.shape:
                    tensor.copy_(now)
                elif tensor.is_floating_point():
                    tensor.fill_(float("nan"))
                else:
                    tensor.zero_()
        for number, state in done["states"]:
            if isinstance(self.objects[number], torch.Generator):
                self.objects[number].set_state(state)
        for number, weights in done["weights"]:
            _load(self.objects[number], weights)
        return done["value"]

    def refer(self, value: Any) -> dict[str, Any] | None:
        """How the student's process makes what it stands for."""
        if isinstance(value, Tensor):
            if self.sending and id(value) not in self.shown:
                self.arguments.append(value)
                return {"argument": True}
            return None
        if isinstance(value, NoiseSchedule):
            parameters = dict(value.parameters)
            beta = self._show(value.beta)
            return {"refer": "schedule", "beta": beta, "name": value.name, "parameters": parameters}
        number = next((n for n, known in enumerate(self.objects) if known is value), None)
        if number is None:
            self.objects.append(value)
            number = len(self.objects) - 1
        if isinstance(value, torch.Generator):
            return {"refer": "generator", "number": number, "state": self._show(value.get_state())}
        if isinstance(value, nn.Module):
            weights = {name: self._show(parameter) for name, parameter in value.named_parameters()}
            return {"refer": "network", "number": number, "weights": weights}
        if isinstance(value, torch.optim.Optimizer):
            weights = [list(self._owner(p)) for group in value.param_groups for p in group["params"]]
            named = {"name": type(value).__name__, "weights": weights, "settings": {"lr": value.defaults["lr"]}}
            return {"refer": "optimizer", "number": number} | named
        return {"refer": "function", "number": number} if callable(value) else None

    def _show(self, tensor: Tensor) -> Tensor:
        """A copy that goes over the line as a part of something else: no argument that a student could change."""
        copy = tensor.detach().clone()
        self.shown[id(copy)] = copy
        return copy

    def _owner(self, parameter: nn.Parameter) -> tuple[int, str]:
        """The network that a parameter is of, and its name there."""
        for number, known in enumerate(self.objects):
            if isinstance(known, nn.Module):
                for name, other in known.named_parameters():
                    if other is parameter:
                        return number, name
        raise ValueError("an optimizer must be given after the network that it is for.")

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; only the tensors of a call can be changed by the student."""
        super().send(message)
        self.sending, self.shown = False, {}

    def resolve(self, node: dict[str, Any], value: Any) -> Any:
        """A tensor of the student's, with his graph behind it; nothing else of his is taken but values."""
        if isinstance(value, Tensor):
            graph = node.get("graph")
            if isinstance(graph, int):
                return _Returned.apply(self, graph, value, *self.hidden.values())
            return value
        raise ValueError("a student's process names no objects.")

    def answer(self, what: str, asked: dict[str, Any]) -> Any:
        """What a student's function may ask for while it runs: a value of a function of the judge's, a gradient."""
        if what == "compute":
            return self._compute(asked)
        if what == "backward":
            result, args, weights = self.graphs[asked["graph"]]
            inputs = [arg for arg in args if arg is not None]
            sources = [*inputs, *weights.values(), *self.hidden.values()]
            grads = torch.autograd.grad(result, sources, asked["gradient"], retain_graph=True, allow_unused=True)
            by = {id(source): grad for source, grad in zip(sources, grads, strict=True)}
            for number in self.hidden:
                if by[number] is not None:
                    self.gathered[number] = self.gathered.get(number, 0) + by[number]
            return {
                "args": [None if arg is None else by[id(arg)] for arg in args],
                "weights": {name: by[id(weight)] for name, weight in weights.items()},
            }
        raise ValueError(f"the judge does not answer {what!r}.")

    def _compute(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A function's value, its graph kept when it has one."""
        target, args = self.objects[asked["number"]], asked["args"]
        if not callable(target):
            raise TypeError("that is no function.")
        needs = asked.get("needs") or [False] * len(args)
        if asked["weights"]:
            _load(target, asked["weights"])
        for arg, need in zip(args, needs, strict=True):
            if need:
                arg.requires_grad_()
        with torch.set_grad_enabled(bool(asked["grad"])):
            value = target(*args, **asked["kwargs"])
        if not (isinstance(value, Tensor) and value.requires_grad):
            return {"value": value, "graph": None}
        weights = dict(target.named_parameters()) if isinstance(target, nn.Module) else {}
        inputs = [arg if need else None for arg, need in zip(args, needs, strict=True)]
        seen = {id(tensor) for tensor in (*args, *weights.values())}
        self.hidden |= {id(leaf): leaf for leaf in _leaves(value) if id(leaf) not in seen}
        self.graphs.append((value, inputs, weights))
        return {"value": value.detach(), "graph": len(self.graphs) - 1}


def _load(network: Any, weights: dict[str, Tensor]) -> None:
    """Put weights that came over the line into a network, where they fit."""
    own = dict(network.named_parameters()) if isinstance(network, nn.Module) else {}
    with torch.no_grad():
        for name, value in weights.items():
            if name in own and isinstance(value, Tensor) and value.shape == own[name].shape:
                own[name].copy_(value)


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors that gradients of a value end at."""
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


class _Returned(torch.autograd.Function):
    """A student's result; its gradient by what the judge's functions hold is asked over the line."""

    @staticmethod
    def forward(ctx: Any, line: JudgeEnd, graph: int, value: Tensor, *leaves: Tensor) -> Tensor:
        ctx.line, ctx.graph, ctx.leaves = line, graph, [id(leaf) for leaf in leaves]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.line.gathered = {}
        ctx.line.ask("gradient", graph=ctx.graph, gradient=gradient)
        return (None, None, None, *(ctx.line.gathered.get(leaf) for leaf in ctx.leaves))
