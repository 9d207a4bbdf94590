"""The support of an update, {|Δ| > threshold} (PAPER.md §3, §4), as a mask in a file.

The weights are rounded to the dtype they are compared in and subtracted in float32, and the threshold is
taken as it is: what `mask select --selector threshold` does with checkpoints stored in that dtype.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from sparseopd.analysis.measure import Sides
from sparseopd.analysis.request import check_siblings
from sparseopd.analysis.values import compared_dtype
from sparseopd.artifacts import Progress
from sparseopd.masks import Mask, select
from sparseopd.masks.bitmap import Bitmap, Bitmaps
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.scope import in_scope
from sparseopd.pairs.tensors import Tensors
from sparseopd.ranges import Dtype

THRESHOLD = 1e-5
"""The paper's."""


@contextmanager
def supports(
    base: Tensors,
    tuned: Mapping[str, Tensors],
    dtypes: Mapping[str, torch.dtype],
    threshold: float = THRESHOLD,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Mask]]:
    """Yield the support of every update, by label; each lies in a file that is removed afterwards.

    `dtypes` are `compared_dtypes` of base and tuned.
    """
    before = Rounded(base, dtypes)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".supports-") as temporary:
        yield {
            label: _support(
                before,
                Rounded(tensors, dtypes),
                threshold,
                Path(temporary) / f"{place}.safetensors",
                _labelled(progress, label),
            )
            for place, (label, tensors) in enumerate(tuned.items())
        }


def compared_dtypes(
    base: Tensors,
    tuned: Sequence[Tensors],
    dtype: Dtype | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> dict[str, torch.dtype]:
    """Return the dtype to compare each tensor in scope in: the one given, or the narrowest stored.

    Raises `AnalysisError` where a tuned checkpoint is no sibling of the base.
    """
    names = in_scope(base.keys(), include, exclude)
    for one in tuned:
        check_siblings(Sides(base, one), names)
    if dtype is not None:
        return {name: getattr(torch, dtype) for name in names}
    sides = (base, *tuned)
    return {name: _narrowest([one.dtype(name) for one in sides]) for name in names}


class Rounded:
    """Tensors rounded to the dtypes they are compared in; implements `Tensors`."""

    revision = None
    folder = None

    def __init__(self, tensors: Tensors, dtypes: Mapping[str, torch.dtype]) -> None:
        self.label, self._tensors, self._dtypes = tensors.label, tensors, dtypes

    def keys(self) -> list[str]:
        """Return the names that have a dtype, sorted."""
        return sorted(self._dtypes)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape."""
        return self._tensors.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype a tensor is rounded to."""
        return self._dtypes[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].to(self._dtypes[name])

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Return the coordinates start…stop of a tensor, row-major: (stop - start,), rounded."""
        return self._tensors.flat(name, start, stop).to(self._dtypes[name])


def _narrowest(stored: Sequence[torch.dtype]) -> torch.dtype:
    return reduce(compared_dtype, stored)


def _support(
    base: Tensors, tuned: Tensors, threshold: float, path: Path, progress: Progress | None
) -> Mask:
    if _is_still(Comparison(base, tuned), threshold):
        shapes = {name: tuple(base.shape(name)) for name in base.keys()}
        nothing = Bitmaps(shapes, lambda name: Bitmap.empty(shapes[name]), dict.fromkeys(shapes, 0))
        return Mask(nothing)
    return select(
        base, tuned, selector="threshold", threshold=threshold, output=path, progress=progress
    )


def _is_still(comparison: Comparison, threshold: float) -> bool:
    """Whether nothing moved more than the threshold, which `select` refuses; ends at the first that did."""
    return all(
        bool((comparison.magnitude(piece) <= threshold).all())
        for piece in comparison.pieces(comparison.names)
    )


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None

    def report(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        progress(f"support of {label}", done, total, unit, detail)

    return report
