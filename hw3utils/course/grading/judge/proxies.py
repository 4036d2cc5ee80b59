"""The judge's functions, networks, generators and optimizers in a student's process."""

from typing import Any

import torch
from torch import Tensor, nn

from hw3utils.course.grading.judge.student_side import StudentConnection
from hw3utils.schedules import NoiseSchedule


def proxy(connection: StudentConnection, kind: str, value: dict[str, Any]) -> Any:
    """A new proxy for an object of the judge: a schedule, function, network, generator or optimizer."""
    if kind == "schedule":
        return NoiseSchedule(value["beta"], name=value["name"], parameters=value["parameters"])
    if kind == "function":
        return _RemoteFunction(connection, value["number"])
    if kind == "network":
        return _RemoteNetwork(connection, value["number"], value["weights"])
    if kind == "generator":
        return torch.Generator()
    weights = [connection.proxies[owner].weight(name) for owner, name in value["weights"]]
    return getattr(torch.optim, value["name"])(weights, **value["settings"])


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
