"""One weight's masked coordinates as a compact vector that a torch optimizer can train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseopd.errors import OptimizerError
from sparseopd.masks.places import Places
from sparseopd.optim.rounding import round_stochastically, uniform_at
from sparseopd.optim.shards import LocalPart, local_part, local_tensor


class CompactParameter:
    """The k masked coordinates of one weight, held as an fp32 parameter of (k,).

    `values` is what the optimizer sees. `gather` moves a dense gradient onto it, `write_back` copies
    the values into the weight, in the weight's dtype. No other coordinate is ever written. Of a
    sharded weight (FSDP2) only the coordinates in this process are held, and k is their number,
    which may be 0.
    """

    def __init__(self, name: str, weight: nn.Parameter, chosen: Tensor) -> None:
        """Args: `chosen`, a bool tensor of the whole weight's shape with at least one True."""
        self.name, self.weight = name, weight
        self.part = local_part(name, weight)
        self.whole_k = int(chosen.count_nonzero())
        """Coordinates in the whole weight."""
        self.within = _ranks(chosen, self.part)
        """Where the local coordinates stand in the whole k-vector: a slice, or int64 (k,)."""
        held = self._held()
        if not held.is_contiguous():
            raise OptimizerError(
                f"the weight {name} is not contiguous in memory: call .contiguous() first"
            )
        self.places = Places.of(self.part.of(chosen), held.device)
        """The local coordinates, in this process's block."""
        self.row_starts: Tensor | None = None
        """Where each row of the weight begins in the index, int32 (rows + 1,), if gradients are sampled."""
        self.values = nn.Parameter(self.places.take(held).to(torch.float32, copy=True))
        self.written: tuple[int, int] | None = None
        """The noise, (step, seed), of the last write; None if it was rounded to nearest."""
        self.norms: Tensor | None = None
        """Norms of the dense gradient and of its masked part, fp32 (2,), where they were asked for."""

    @property
    def index(self) -> Tensor | None:
        """The flat positions of the local coordinates, (k,); None where all are chosen."""
        return self.places.index

    @torch.no_grad()
    def gather(self, *, measure: bool = False) -> None:
        """Add the weight's dense gradient, at the masked coordinates, to `values.grad`; free it.

        `measure` takes norms on the way. They are the step's only if one gradient arrives before it:
        the norm of a sum of dense gradients cannot be had without keeping them; it is NaN then.
        """
        dense = self.weight.grad
        if dense is None:
            return
        if dense.layout is not torch.strided:
            raise OptimizerError(
                f"the gradient of {self.name} is sparse: build the embedding with sparse=False"
            )
        local = local_tensor(dense, self.weight)
        # Where all is chosen the gradient itself would come back, which others may still hold.
        gathered = self.places.take(local).to(torch.float32, copy=self.index is None)
        if measure:
            norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in (local, gathered)]
            self.norms = torch.stack(norms) * (1.0 if self.norms is None else torch.nan)
        self.accumulate(gathered)
        self.weight.grad = None

    def accumulate(self, gradient: Tensor) -> None:
        """Add fp32 (k,) to the k-vector's gradient; the tensor may be kept."""
        if self.values.grad is not None:
            self.values.grad.add_(gradient)
        elif gradient.numel():  # optimizers skip a vector that has no gradient
            self.values.grad = gradient

    def drop(self) -> None:
        """Forget the gathered gradient, and a dense one that came by another way."""
        self.values.grad = self.weight.grad = self.norms = None

    @torch.no_grad()
    def write_back(self, *, noise: tuple[int, int] | None = None) -> None:
        """Copy the values into the weight at the masked coordinates, rounded to its dtype.

        To nearest, or stochastically by `noise`, a (step, seed).
        """
        self.written = noise
        held = self._held()
        self.places.put(held, self._rounded(held.dtype))

    @torch.no_grad()
    def is_as_written(self) -> bool:
        """Whether the weight holds what the values were last rounded to."""
        stored = self.stored()
        return torch.equal(stored, self._rounded(stored.dtype))

    @torch.no_grad()
    def stored(self) -> Tensor:
        """Return the weight's masked coordinates as they are stored: a copy of (k,), in its dtype."""
        return self.places.take(self._held()).clone()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the values anew from the weight, after someone else has written to it."""
        self.values.copy_(self.places.take(self._held()))
        self.written = None

    def _rounded(self, dtype: torch.dtype) -> Tensor:
        """The values in the weight's dtype, as `written` says: (k,)."""
        values = self.values.detach()
        if self.written is None or dtype == torch.float32:
            return values.to(dtype)
        positions = self.part.flat_positions(self.places.positions())
        return round_stochastically(values, dtype, uniform_at(positions, self.name, *self.written))

    def _held(self) -> Tensor:
        """The weight's own memory in this process; FSDP2 may move it, so it is asked each time."""
        return local_tensor(self.weight.detach())


def _ranks(chosen: Tensor, part: LocalPart) -> slice | Tensor:
    """Where the chosen coordinates of this process stand among all chosen ones."""
    if part.whole or part.by_rows:
        before = int(chosen[: part.region[0].start].count_nonzero()) if chosen.dim() else 0
        return slice(before, before + int(part.of(chosen).count_nonzero()))
    ranks = (chosen.reshape(-1).cumsum(0) - 1).view(chosen.shape)
    return part.of(ranks)[part.of(chosen)]
