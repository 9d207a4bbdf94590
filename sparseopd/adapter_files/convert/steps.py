"""How far an export is, told in bytes: what a bar of layers would leave without a unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert.layers import Layer, Plan
from sparseopd.artifacts import Progress

T = TypeVar("T")


def tensors_in(
    adapter: SparseAdapter, names: Sequence[str], progress: Progress | None
) -> Iterator[str]:
    """Return tensors one by one, and report the bytes of the values of those that are done."""
    sizes = [adapter.count(name) * adapter.dtype(name).itemsize for name in names]
    return _reported(names, sizes, progress)


def layers_in(planned: Plan, progress: Progress | None) -> Iterator[Layer]:
    """Return layers one by one, and report the bytes of the base's weights that are done."""
    base, layers = planned.base, planned.layers
    sizes = [layer.numel * base.dtype(layer.tensor).itemsize for layer in layers]
    return _reported(layers, sizes, progress)


def _reported(items: Sequence[T], sizes: list[int], progress: Progress | None) -> Iterator[T]:
    done, total = 0, sum(sizes)
    for item, size in zip(items, sizes, strict=True):
        yield item
        done += size
        if progress is not None and total:
            progress("export", done, total, "bytes")
