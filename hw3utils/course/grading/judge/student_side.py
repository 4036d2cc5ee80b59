"""The student's end of the line: it runs in the student's kernel and gives the judge what stands there under a name.

Nothing here is trusted: whatever a student does to it, the judge sees values alone.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.course.grading.judge.connection import Line, LostLine, knock
from hw3utils.schedules import NoiseSchedule


def serve(address: Any, key: str, namespace: MutableMapping[str, Any]) -> None:
    """Answer the judge's questions until he has none left."""
    StudentEnd(knock(address, key), namespace).work()


class StudentEnd(Line):
    """Functions, values and gradients of the student's, for the judge."""

    def __init__(self, connection: Any, namespace: MutableMapping[str, Any]) -> None:
        super().__init__(connection, seconds=10**6)
        self.namespace = namespace
        self.kept: dict[str, Any] = {}
        self.done = False
        self.known: dict[int, Any] = {}
        self.given: list[tuple[Tensor, Tensor]] = []
        self.returned: list[Tensor] = []
        self.returning = False

    def work(self) -> None:
        """Answer until the judge is done; what he bound is taken back."""
        try:
            while not self.done:
                self.reply(self.receive())
        except LostLine:
            pass
        finally:
            self.connection.close()
            self.namespace.update(self.kept)

    def __deepcopy__(self, memo: dict) -> "StudentEnd":
        return self

    def refer(self, value: Any) -> dict[str, Any] | None:
        """Tensors that gradients can be asked of; nothing else of the student's crosses but by value."""
        if isinstance(value, Tensor) and self.returning and value.requires_grad:
            self.returned.append(value)
            return {"graph": len(self.returned) - 1}
        return None

    def resolve(self, node: dict[str, Any], value: Any) -> Any:
        """The judge's objects, each made once."""
        if isinstance(value, Tensor):
            if "argument" in node:
                self.given.append((value, value.clone()))
            return value
        kind = node["refer"]
        if kind == "schedule":
            return NoiseSchedule(value["beta"], name=value["name"], parameters=value["parameters"])
        number = value["number"]
        if number not in self.known:
            if kind == "function":
                self.known[number] = _Function(self, number)
            elif kind == "network":
                self.known[number] = _Network(self, number, value["weights"])
            elif kind == "generator":
                self.known[number] = torch.Generator()
            elif kind == "optimizer":
                weights = [self.known[owner].weight(name) for owner, name in value["weights"]]
                self.known[number] = getattr(torch.optim, value["name"])(weights, **value["settings"])
        if kind == "generator":
            self.known[number].set_state(value["state"])
        return self.known[number]

    def answer(self, what: str, asked: dict[str, Any]) -> Any:
        """What the judge asks."""
        if what == "look":
            return {name: self._look(name) for name in asked["names"]}
        if what == "bind":
            for name, value in asked["values"].items():
                if name in self.namespace:
                    self.kept.setdefault(name, self.namespace[name])
                    self.namespace[name] = value
            return None
        if what == "call":
            return self._call(asked)
        if what == "gradient":
            self.returning = False
            torch.autograd.backward(self.returned[asked["graph"]], asked["gradient"], retain_graph=True)
            return None
        self.done = True
        return None

    def _look(self, name: str) -> dict[str, Any]:
        if name not in self.namespace:
            return {"is": "missing"}
        value = self.namespace[name]
        return {"is": "function"} if callable(value) else {"is": "value", "value": value}

    def _call(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Call a function; its value, and what it changed of what it was given."""
        given, self.given, self.returned = self.given, [], []
        self.returning = False
        with torch.set_grad_enabled(asked["grad"]):
            value = self.namespace[asked["name"]](*asked["args"], **asked["kwargs"])
        changed = [[n, now.detach()] for n, (now, before) in enumerate(given) if not torch.equal(now, before)]
        states = [[n, g.get_state()] for n, g in self.known.items() if isinstance(g, torch.Generator)]
        weights = [[n, m.state()] for n, m in self.known.items() if isinstance(m, _Network)]
        self.returning = True
        return {"value": value, "changed": changed, "states": states, "weights": weights}


class _Function:
    """A function of the judge's, with gradients by its arguments."""

    def __init__(self, line: StudentEnd, number: int) -> None:
        self.line, self.number = line, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ask(self.line, self.number, args, kwargs, {})


class _Network(nn.Module):
    """A network of the judge's: weights of its own, which a student may train; the judge computes with them."""

    def __init__(self, line: StudentEnd, number: int, weights: dict[str, Tensor] | None) -> None:
        super().__init__()
        self.line, self.number = line, number
        self.names = {name: f"weight_{n}" for n, name in enumerate(weights)}
        for name, place in self.names.items():
            setattr(self, place, nn.Parameter(weights[name]))

    def weight(self, name: str) -> nn.Parameter:
        """A parameter by the judge's name for it."""
        return getattr(self, self.names[name])

    def state(self) -> dict[str, Tensor]:
        """The parameters as they are now."""
        return {name: self.weight(name).detach() for name in self.names}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        small = sum(parameter.numel() for parameter in self.parameters()) < 100_000
        weights = {name: self.weight(name) for name in self.names} if small else {}
        return _ask(self.line, self.number, args, kwargs, weights)


def _ask(line: StudentEnd, number: int, args: tuple, kwargs: dict, weights: dict[str, Tensor]) -> Any:
    """Have the judge compute a function of his."""
    line.returning = False
    if not torch.is_grad_enabled():
        return line.ask("compute", number=number, args=list(args), kwargs=kwargs, weights=weights, grad=False)["value"]
    anchor = torch.zeros((), requires_grad=True)
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return _Computed.apply(line, number, args, kwargs, list(weights), anchor, *tensors, *weights.values())


class _Computed(torch.autograd.Function):
    """The judge's result, whose gradients are asked of him."""

    @staticmethod
    def forward(ctx: Any, line: StudentEnd, number: int, args: tuple, kwargs: dict, names: list, *tensors: Any) -> Any:
        weights = dict(zip(names, tensors[len(tensors) - len(names) :], strict=True))
        needs, k = [], 6
        for arg in args:
            needs.append(isinstance(arg, Tensor) and ctx.needs_input_grad[k])
            k += isinstance(arg, Tensor)
        done = line.ask(
            "compute", number=number, args=list(args), kwargs=kwargs, weights=weights, grad=True, needs=needs
        )
        ctx.line, ctx.graph, ctx.places = line, done["graph"], [isinstance(arg, Tensor) for arg in args]
        ctx.names = names
        if done["graph"] is None and isinstance(done["value"], Tensor):
            ctx.mark_non_differentiable(done["value"])
        return done["value"]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.line.returning = False
        done = ctx.line.ask("backward", graph=ctx.graph, gradient=gradient)
        by_args = [grad for grad, tensor in zip(done["args"], ctx.places, strict=True) if tensor]
        return (None,) * 6 + (*by_args, *(done["weights"].get(name) for name in ctx.names))
