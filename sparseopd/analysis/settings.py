"""What an analysis is asked for beside its two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from sparseopd.errors import AnalysisError
from sparseopd.ranges import Dtype

DRAWS = 3
"""Draws of each null, unless asked otherwise…"""
VALUES = 24
"""…or more, where a model has so few matrices that its nulls would have fewer values than this."""


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """Raises `AnalysisError` on values that cannot be."""

    dtype: Dtype | None = None
    """What weights are rounded to and subtracted in; None: the narrower of the dtypes both sides are
    stored in, as whoever serves the model holds them."""
    draws: int | None = None
    """Draws of each null; 0 leaves the nulls out. None: `DRAWS`, or more for few matrices."""
    seed: int = 0
    device: str = "cpu"
    """Where the linear algebra runs: cpu, cuda, cuda:1…"""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Tensors to look at: blocks or shell patterns (masks.scope); all by default."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in get_args(Dtype):
            raise AnalysisError(f"dtype is {self.dtype}: give {', '.join(get_args(Dtype))}")
        if self.draws is not None and not 0 <= self.draws <= 1000:
            raise AnalysisError(f"draws is {self.draws}: give 0 (no nulls) to 1000")
        if not 0 <= self.seed < 2**31:
            raise AnalysisError(f"seed is {self.seed}: give 0 to {2**31 - 1:,}")

    def resolved(self, matrices: int) -> AnalysisSettings:
        """Return the settings with `draws` decided for a model of so many matrices."""
        if self.draws is not None:
            return self
        return replace(self, draws=max(DRAWS, -(-VALUES // max(1, matrices))))
