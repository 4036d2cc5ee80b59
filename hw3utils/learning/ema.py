"""The exponential moving average (EMA) of a network's weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hw3utils.noise import evaluating


class EMA:
    """Exponential moving average of a network's parameters, with warm-up; buffers are copied.

    The average of half-precision weights is kept in float32, where small updates are not rounded away. Tied parameters
    are averaged once.

    Args:
        network: followed from its present weights on.
        decay: upper limit; at update n the decay is min(decay, (1 + n) / (10 + n)).

    Attributes:
        live: the network's parameters.
        average: their averages, in the same order.

    Source: Ho et al. 2020, arXiv 2006.11239, appendix B (decay 0.9999).
    """

    # Not torch.optim.swa_utils.AveragedModel: its first update copies the weights where ours averages them, it keeps
    # the average of half-precision weights in half precision, and it waits for the accelerator at every update.
    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.live: list[Tensor] = list(network.parameters())
        self.average = [
            parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            for parameter in self.live
        ]
        # A tensor on the device: the decay is computed there in float32, without waiting.
        self.updates = torch.zeros((), dtype=torch.float32, device=self.average[0].device)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        self.updates += 1
        weight = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        change = torch._foreach_sub(self.live, self.average)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(self.average, change)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, and the buffers, under the network's own names; not copies."""
        averages = {id(parameter): average for parameter, average in zip(self.live, self.average, strict=True)}
        state = self.network.state_dict(keep_vars=True)
        return {name: averages.get(id(tensor), tensor).detach() for name, tensor in state.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Set the average, by the names of the parameters, and the number of updates behind it."""
        for (name, _), average in zip(self.network.named_parameters(), self.average, strict=True):
            average.copy_(tensors[name])
        self.updates.fill_(updates)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> nn.Module:
        """Give a network of the same architecture the averaged weights; returns it."""
        network.load_state_dict(self.state_dict())
        return network

    @contextlib.contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The network itself with the averaged weights, in evaluation mode, for the length of a `with`."""
        live = [parameter.detach().clone() for parameter in self.live]
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.average)
        try:
            with evaluating(self.network):
                yield self.network
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, live)
