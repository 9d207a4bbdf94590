"""The two sides of a part in one dtype, and their difference: what every figure is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Values:
    """W, W + Δ and Δ of a part, on one device; float32 holds each exactly, but for float64 weights."""

    before: Tensor
    """float32, as rounded to the compared dtype: W."""
    after: Tensor
    """Likewise: W + Δ."""
    change: Tensor
    """float32, subtracted in the compared dtype: Δ."""
    dtype: torch.dtype
    """The compared dtype."""

    @cached_property
    def size(self) -> Tensor:
        """|Δ|."""
        return self.change.abs()

    @cached_property
    def largest(self) -> float:
        """max |Δ|."""
        return float(self.size.max()) if self.size.numel() else 0.0

    @cached_property
    def squares(self) -> Tensor:
        """(Δ / max |Δ|)²: float32 would lose the squares of small numbers."""
        return (self.size / self.largest).square_()

    @cached_property
    def energy(self) -> float:
        """ΣΔ², summed in float64, in units of max |Δ|²."""
        return float(self.squares.sum(dtype=torch.float64)) if self.largest else 0.0

    @property
    def norm(self) -> float:
        """‖Δ‖_F."""
        return self.largest * self.energy**0.5

    @cached_property
    def base_norm(self) -> float:
        """‖W‖_F, summed in float64."""
        return norm(self.before)


def norm(values: Tensor) -> float:
    """Return the root of Σx², summed in float64; float32 would lose the squares of small numbers."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not largest:
        return 0.0
    return largest * float((values / largest).square_().sum(dtype=torch.float64)) ** 0.5


def compare(before: Tensor, after: Tensor, dtype: torch.dtype) -> Values:
    """Round both sides to `dtype` and subtract in it, as the paper's scripts do with bfloat16."""
    left, right = before.to(dtype), after.to(dtype)
    return Values(left.float(), right.float(), (right - left).float(), dtype)


def moved(values: Values, after: Tensor, stored: torch.dtype) -> Values:
    """Return another update of the same W: `after`, float32, is rounded as stored, then compared."""
    right = after.to(stored).to(values.dtype)
    change = (right - values.before.to(values.dtype)).float()
    return Values(values.before, right.float(), change, values.dtype)


def rounded_to(before: Tensor, after: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the narrowest dtype that an update has been rounded to: compared in, stored in, or held by.

    A checkpoint stored in float32 may hold nothing that bfloat16 does not.
    """
    dtypes = [dtype, before.dtype, after.dtype]
    if min(one.itemsize for one in dtypes) > 2 and all(
        torch.equal(side.bfloat16().to(side.dtype), side) for side in (before, after)
    ):
        return torch.bfloat16
    return min(dtypes, key=lambda one: one.itemsize)


def compared_dtype(before: torch.dtype, after: torch.dtype) -> torch.dtype:
    """The narrower of two stored dtypes; the base's, if they are as wide. 8-bit floats count as bfloat16,
    which holds them exactly and can be subtracted in."""
    left, right = (dtype if dtype.itemsize > 1 else torch.bfloat16 for dtype in (before, after))
    return right if right.itemsize < left.itemsize else left
