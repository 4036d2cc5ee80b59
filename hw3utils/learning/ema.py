"""The exponential moving average of a network's weights."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a network's parameters, with warm-up; buffers are copied.

    Args:
        network: followed from its present weights on.
        decay: upper limit; at update n the decay is min(decay, (1 + n) / (10 + n)).

    Source: Ho et al. 2020, arXiv 2006.11239, appendix B (decay 0.9999).
    """

    # Not torch.optim.swa_utils.AveragedModel: it looks on the host at how often it was updated, which a captured graph
    # cannot, and its first update copies, where ours follows the first weights from the start.
    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.live = list(network.parameters())
        self.average = [parameter.detach().clone() for parameter in self.live]
        # A tensor on the device, so that an update can be part of a CUDA graph.
        self.updates = torch.zeros((), device=self.average[0].device)

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
        averages = dict(zip((name for name, _ in self.network.named_parameters()), self.average, strict=True))
        return {name: averages.get(name, tensor).detach() for name, tensor in self.network.state_dict().items()}

    def load(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Set the average and the number of updates behind it."""
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
        modes = [(module, module.training) for module in self.network.modules()]
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.average)
        self.network.eval()
        try:
            yield self.network
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, live)
            for module, mode in modes:
                module.training = mode
