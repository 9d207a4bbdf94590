"""Numbers compared by their bits, and moved between dtypes with a count of what that loses."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer dtype for each size of number in bytes."""


def as_integers(tensor: Tensor) -> Tensor:
    """Return the same memory as integers, so that −0.0 differs from 0.0, and NaN equals itself."""
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def differ(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return where two tensors of one dtype have different bits: bool, in their shape."""
    return as_integers(ours) != as_integers(theirs)


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every number of one floating-point dtype is one of another, too."""
    if wide == narrow:
        return True
    ours, theirs = torch.finfo(wide), torch.finfo(narrow)
    fine = ours.eps <= theirs.eps and ours.tiny * ours.eps <= theirs.tiny * theirs.eps
    return fine and ours.max >= theirs.max


def cast(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return values in a dtype, and where that lost bits (bool), None if it cannot."""
    if holds(dtype, values.dtype):
        return values.to(dtype), None
    moved = values.to(dtype)
    return moved, differ(moved.to(values.dtype), values)
