"""Where the chosen coordinates of one weight lie in memory: gathered and written as a k-vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseopd.errors import MaskError

_DENSE = 16
"""On the CPU `put_` is the faster where one coordinate in so many is chosen, and `index_put_`, which takes
int32, where there are fewer (benchmarks/where_time_goes.py)."""
_PIECE = 2**21
"""Values written at a time on the CPU: the int64 copies of more positions would be fresh memory each time
(glibc maps 32 MiB anew), which doubles the time; of fewer, threads would wait for each other more often."""


@dataclass(frozen=True, eq=False)
class Places:
    """Flat, ascending positions of chosen coordinates in one weight held in memory."""

    index: Tensor | None
    """(k,) on the weight's device, int32 where that reaches, else int64; None where all are chosen."""
    k: int
    """How many are chosen."""
    device: torch.device
    """Where the weight lies."""

    @classmethod
    def of(cls, chosen: Tensor, device: torch.device | str | int) -> Places:
        """Find the True coordinates of a bool tensor of the weight's shape; keep them on `device`."""
        # Where all is chosen the weight itself is the k-vector, in the same order.
        if bool(chosen.all()):
            return cls(None, chosen.numel(), torch.device(device))
        positions = torch.nonzero(chosen.reshape(-1)).view(-1)
        index = _narrowed(positions, chosen.numel()).to(device)
        return cls(index, len(index), index.device)

    @classmethod
    def at(cls, positions: Tensor, weight: Tensor) -> Places:
        """Take flat positions in `weight`, int64 (k,), ascending without repeats; keep them beside it."""
        if len(positions) == weight.numel():
            return cls(None, len(positions), weight.device)
        index = _narrowed(positions, weight.numel()).to(weight.device)
        return cls(index, len(index), weight.device)

    def take(self, dense: Tensor) -> Tensor:
        """Return the chosen coordinates of a tensor in the weight's shape: (k,), in its dtype.

        A copy, except where all are chosen: then the flat tensor itself, which shares its memory.
        """
        flat = dense.reshape(-1)
        return flat if self.index is None else flat.index_select(0, self.index)

    @torch.no_grad()
    def put(self, dense: Tensor, values: Tensor) -> None:
        """Write values (k,), cast to `dense`'s dtype, to the chosen coordinates; touch no other.

        `dense` has the weight's shape and is contiguous. Raises `MaskError` if there are not k values.
        """
        if values.shape != (self.k,):
            raise MaskError(
                f"values of shape {tuple(values.shape)} cannot be written to {self.k} coordinates: "
                f"give a vector of {self.k}"
            )
        flat, stored = dense.view(-1), values.to(dense)
        if self.index is None:
            flat.copy_(stored)
        elif flat.is_cpu and _DENSE * self.k >= flat.numel() and _may_put():
            for start in range(0, self.k, _PIECE):
                piece = slice(start, start + _PIECE)
                flat.put_(self.index[piece].long(), stored[piece])
        else:
            flat.index_put_((self.index,), stored)

    def to(self, device: torch.device | str | int) -> Places:
        """Return the same places of the weight moved to another device."""
        index = None if self.index is None else self.index.to(device)
        return Places(index, self.k, torch.device(device))

    def positions(self) -> Tensor:
        """Return the flat positions, int64 (k,), on the weight's device."""
        if self.index is None:
            return torch.arange(self.k, device=self.device)
        return self.index.long()

    def same(self, other: Places) -> bool:
        """Whether two `Places` of one weight choose the same coordinates."""
        if self.index is None or other.index is None:
            return self.index is other.index and self.k == other.k
        return self.k == other.k and torch.equal(self.index, other.index)


def _narrowed(positions: Tensor, numel: int) -> Tensor:
    """Positions in a weight of `numel` coordinates as int32 where that reaches."""
    # Half the bytes held, and faster to gather by; only writing has to widen it.
    return positions.to(torch.int32) if numel < 2**31 else positions


def _may_put() -> bool:
    """Whether torch allows `put_`: not in its deterministic mode, as an index might come twice; none does."""
    return not torch.are_deterministic_algorithms_enabled()
