"""One parameter's masked coordinates as a compact vector that a torch optimizer can train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseopd.errors import OptimizerError


class CompactParameter:
    """The k masked coordinates of one weight, held as an fp32 parameter of (k,).

    `values` is what the optimizer sees. `gather` moves a dense gradient onto it, `write_back` copies
    the values into the weight, in the weight's dtype. No other coordinate is ever written.
    """

    def __init__(self, name: str, weight: nn.Parameter, chosen: Tensor) -> None:
        """Args: `chosen`, a bool tensor of the weight's shape with at least one True."""
        if not weight.is_contiguous():
            raise OptimizerError(
                f"the weight {name} is not contiguous in memory: call .contiguous() first"
            )
        if not weight.dtype.is_floating_point:
            raise OptimizerError(
                f"the weight {name} is {weight.dtype}, which cannot be trained in place: load the model "
                "unquantized, or leave this tensor out of the mask"
            )
        self.name, self.weight = name, weight
        self.index = self._positions(chosen).to(weight.device)
        self.values = nn.Parameter(self._masked(weight.detach()).float())

    def gather(self) -> None:
        """Add the weight's dense gradient, at the masked coordinates, to `values.grad`; free it."""
        dense = self.weight.grad
        if dense is None:
            return
        if dense.is_sparse:
            raise OptimizerError(
                f"the gradient of {self.name} is sparse: build the embedding with sparse=False"
            )
        gathered = self._masked(dense).float()
        if self.values.grad is None:
            self.values.grad = gathered
        else:
            self.values.grad.add_(gathered)
        self.weight.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the values into the weight at the masked coordinates, rounded to its dtype."""
        flat = self.weight.detach().view(-1)
        flat[self.index] = self.values.to(self.weight.dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the values anew from the weight, after someone else has written to it."""
        self.values.copy_(self._masked(self.weight.detach()))

    def _masked(self, dense: Tensor) -> Tensor:
        """The masked coordinates of a dense tensor: (k,), a copy in its dtype."""
        return dense.reshape(-1).index_select(0, self.index)

    @staticmethod
    def _positions(chosen: Tensor) -> Tensor:
        """Flat positions of (k,); int32 where that reaches, to halve the index."""
        positions = torch.nonzero(chosen.reshape(-1)).view(-1)
        return positions.to(torch.int32) if chosen.numel() < 2**31 else positions
