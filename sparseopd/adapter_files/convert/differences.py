"""An adapter's new values as differences from its base, for formats that add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.bits import differ
from sparseopd.adapter_files.convert.result import dtypes, share
from sparseopd.errors import AdapterError
from sparseopd.masks.bitmap import Bitmap, ones
from sparseopd.pairs.tensors import Tensors


@dataclass(frozen=True)
class Difference:
    """The values of one tensor, before and after."""

    positions: Tensor
    """int64 (k,), ascending, row-major."""
    old: Tensor
    """(k,) in the base's dtype."""
    new: Tensor
    """(k,) likewise."""

    @property
    def delta(self) -> Tensor:
        """new − old, float32 (k,)."""
        wide = widened(self.old.dtype)
        return (self.new.to(wide) - self.old.to(wide)).float()

    def padded(self, size: int) -> tuple[Tensor, Tensor]:
        """Return positions and differences, (size,) both, that add up to the same.

        What is added to a place that has its difference already is −0.0, because x + −0.0 is x for
        every x, and 0.0 would make 0.0 of −0.0.
        """
        extra = size - len(self.positions)
        again = self.positions[-1:].expand(extra)
        nothing = torch.full((extra,), -0.0)
        return torch.cat([self.positions, again]), torch.cat([self.delta, nothing])


@dataclass
class Merged:
    """Counts the values that do not survive another library's sum."""

    title: str
    add: Callable[[Difference], Tensor]
    """What the library makes of a tensor's values: (k,) in the base's dtype."""
    k: int = 0
    lost: int = 0
    kinds: set[torch.dtype] = field(default_factory=set)

    def count(self, difference: Difference) -> None:
        """Add a tensor's values to the count."""
        self.k += len(difference.new)
        self.kinds.add(difference.old.dtype)
        self.lost += int(differ(self.add(difference), difference.new).sum())

    def losses(self) -> list[str]:
        """Return the sentence, if there is anything to say."""
        if not self.lost:
            return []
        return [
            f"{share(self.lost, self.k)} come out otherwise, because PEFT's {self.title} adds a difference "
            f"to the weight and rounds, in weights held as {dtypes(self.kinds)}"
        ]


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which torch adds float32 numbers to weights of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_sum(name: str, dtype: torch.dtype) -> None:
    """Raise `AdapterError` for weights of 8 bits, to which torch adds nothing."""
    if dtype.itemsize < 2:
        raise AdapterError(
            f"{name} is stored as {dtypes([dtype])}, to which no difference can be added: give the base in "
            "16 or 32 bits, or use coo or vllm-patch"
        )


def positions_of(bitmap: Bitmap) -> Tensor:
    """Return the flat positions of the chosen coordinates: int64 (k,), ascending."""
    return torch.from_numpy(ones(bitmap.bits)).long()


def difference(adapter: SparseAdapter, base: Tensors, name: str) -> Difference:
    """Read one tensor's values from an adapter and from its base."""
    check_sum(name, base.dtype(name))
    positions = positions_of(adapter.mask.bitmaps[name])
    old = base[name].reshape(-1)[positions]
    # A base in memory may hold its numbers in a wider dtype than the adapter.
    return Difference(positions, old, adapter.values(name).to(old.dtype))
