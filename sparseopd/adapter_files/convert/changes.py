"""What a foreign adapter does to its base, tensor by tensor, and one of our adapters written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

import sparseopd
from sparseopd.adapter_files.bits import as_integers, cast, differ
from sparseopd.adapter_files.convert.differences import check_sum
from sparseopd.adapter_files.convert.result import dtypes, share
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Progress, Provenance
from sparseopd.errors import AdapterFileError, AdapterMismatchError
from sparseopd.masks.bitmap import Bitmap, packed
from sparseopd.pairs.tensors import Source, Tensors, stored_hash, tensor_hash

Places = tuple[Tensor, Tensor]
"""Flat positions, int64 (k,), and new values, (k,)."""


class Change(Protocol):
    """What a foreign adapter does to the tensors of a base."""

    names: list[str]
    """The tensors of the base that it may change."""

    def of(self, name: str, before: Tensor) -> Places:
        """Return ascending positions, and new values in the base's dtype, given the base's tensor."""
        ...

    def losses(self) -> list[str]:
        """Return what was lost so far, a sentence each."""
        ...


class Additions:
    """A format that adds: what it makes of a tensor is computed, and compared with what it was."""

    def __init__(
        self, names: list[str], merge: Callable[[str, Tensor], tuple[Tensor, int]]
    ) -> None:
        """Args: `merge(name, before)` returns the sum and at how many places it adds more than 0."""
        self.names, self._merge = names, merge
        self._listed = self._kept = 0

    def of(self, name: str, before: Tensor) -> Places:
        """Return the coordinates whose bits change. Raises `AdapterError` for weights of 8 bits."""
        check_sum(name, before.dtype)
        after, listed = self._merge(name, before)
        where = differ(after, before).reshape(-1).nonzero().squeeze(1)
        self._listed += listed
        new = taken(after.reshape(-1), where)
        # −0.0 that becomes 0.0 changes bits and is no place that was counted
        self._kept += int((new != before.reshape(-1)[where]).sum())
        return where, new

    def losses(self) -> list[str]:
        """Say how many differences change nothing."""
        if self._kept >= self._listed:
            return []
        return [
            f"{share(self._listed - self._kept, self._listed)} are left out, because adding them leaves "
            "the weight as it is: they are too small for its dtype, or cancel each other"
        ]


class Replacements:
    """A format that holds new values: each is kept, whether it differs from the base or not."""

    def __init__(
        self,
        label: str,
        base: Tensors,
        shapes: dict[str, tuple[int, ...]],
        stored: Callable[[str], Places],
        drops_nan: bool = False,
    ) -> None:
        """Check names and shapes against the base. Raises `AdapterMismatchError`.

        Args:
            stored: returns a tensor's positions, in any order, and values.
            drops_nan: take values that are NaN for coordinates that do not change.
        """
        self.names, self._label, self._stored = sorted(shapes), label, stored
        self._drops_nan = drops_nan
        self._k = self._rounded = self._nan = 0
        self._kinds: set[torch.dtype] = set()
        known = set(base.keys())
        wrong = {name: "missing" for name in self.names if name not in known}
        for name in known.intersection(shapes):
            if base.shape(name) != shapes[name]:
                wrong[name] = f"{tuple(base.shape(name))} instead of {shapes[name]}"
        if wrong:
            name, what = next(iter(sorted(wrong.items())))
            raise AdapterMismatchError(
                f"{label} does not belong to {base.label}: {name} is {what}, one of {len(wrong)} tensors "
                "that do not fit; give the base it was made for",
                wrong,
            )

    def of(self, name: str, before: Tensor) -> Places:
        """Return the stored coordinates, in order. Raises `AdapterFileError` for places that are none."""
        positions, values = self._stored(name)
        self._check(name, before.numel(), positions, values)
        order = positions.argsort()
        positions, values = positions[order].long(), taken(values, order)
        if bool((positions[1:] == positions[:-1]).any()):
            raise self._error(name, "a coordinate more than once")
        if self._drops_nan:
            numbers = ~values.isnan()
            self._nan += int((~numbers).sum())
            positions, values = positions[numbers], taken(values, numbers)
        new, rounded = cast(values, before.dtype)
        self._k += len(new)
        if rounded is not None:
            self._rounded += int(rounded.sum())
            self._kinds.add(before.dtype)
        return positions, new

    def losses(self) -> list[str]:
        """Say how many values are none, and how many the base's dtype cannot hold."""
        said = []
        if self._nan:
            said.append(f"{share(self._nan, self._nan + self._k)} are NaN, which means unchanged")
        if self._rounded:
            said.append(
                f"{share(self._rounded, self._k)} are rounded to {dtypes(self._kinds)}, the base's dtype"
            )
        return said

    def _check(self, name: str, numel: int, positions: Tensor, values: Tensor) -> None:
        if positions.ndim != 1 or positions.shape != values.shape:
            raise self._error(
                name, f"{tuple(positions.shape)} positions and {tuple(values.shape)} values"
            )
        if positions.is_floating_point() or not values.is_floating_point():
            raise self._error(name, f"positions of {positions.dtype} and values of {values.dtype}")
        if bool(((positions < 0) | (positions >= numel)).any()):
            raise self._error(name, f"a coordinate outside its {numel:,}")

    def _error(self, name: str, what: str) -> AdapterFileError:
        return AdapterFileError(f"{self._label} is inconsistent: {name} has {what}")


def places_moved(places: Tensor, values: Tensor) -> int:
    """Return at how many distinct flat places (k,) a difference (k,) other than 0 is listed.

    Formats whose layers all hold as many entries are padded with differences of 0.
    """
    return len(places[values != 0].unique())


def taken(values: Tensor, where: Tensor) -> Tensor:
    """Return values[where] with their bits: copying floats may quieten a signalling NaN."""
    return as_integers(values)[where].view(values.dtype)


def write(
    change: Change,
    base: Tensors,
    output: Path,
    provenance: Provenance,
    progress: Progress | None,
) -> int:
    """Write the adapter that does what a foreign one does; return the number of its values.

    Raises `AdapterError` if it changes nothing.
    """
    names, done = set(change.names), 0
    total = sum(base.shape(name).numel() * base.dtype(name).itemsize for name in base.keys())
    with AdapterWriter(output) as writer:
        for name in base.keys():
            shape = base.shape(name)
            places = change.of(name, base[name].contiguous()) if name in names else None
            if places is None or not len(places[0]):
                writer.add(name, Bitmap.empty(shape), base_hash=stored_hash(base, name))
            else:
                _add(writer, name, base[name], places)
            done += shape.numel() * base.dtype(name).itemsize
            if progress is not None and total:
                progress("import", done, total, "bytes")
        header = writer.finish(provenance)
    return sum(entry.count for entry in header.entries)


def origin(base: Source, tensors: Tensors, source: str, title: str) -> Provenance:
    """Describe an adapter that was imported."""
    stored = sorted(dtypes([tensors.dtype(name)]) for name in tensors.keys())
    return Provenance(
        base=str(base) if isinstance(base, (str, Path)) else "",
        revision=tensors.revision,
        selector=f"imported from {title}",
        stored_in={"base": sorted(set(stored))},
        tuned=source,
        version=sparseopd.__version__,
    )


def _add(writer: AdapterWriter, name: str, before: Tensor, places: Places) -> None:
    positions, values = places
    # in integers for the same reason as in taken
    after = as_integers(before.contiguous()).clone()
    after.view(-1)[positions] = as_integers(values)
    writer.add(
        name,
        Bitmap(tuple(before.shape), packed(positions.numpy(), before.numel())),
        values,
        base_hash=tensor_hash(before),
        result_hash=tensor_hash(after.view(before.dtype)),
    )
