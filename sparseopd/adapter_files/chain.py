"""Adapters applied one after another: what each expects of a tensor, and who was wrong if it is not so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter, named
from sparseopd.adapter_files.bits import cast
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError, MaskMismatchError
from sparseopd.pairs.folder import FLOATS
from sparseopd.pairs.tensors import TensorHash, Tensors

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS.values()}
"""The dtypes that a weight's hash can begin with; a file may name any other."""


@dataclass(frozen=True)
class Expected:
    """What one adapter of a chain says a tensor's hash is at some stage."""

    digest: str
    place: int
    """Which adapter, from 0."""
    is_result: bool
    """Whether the values of that adapter are in it already."""


@dataclass(frozen=True)
class Stage:
    """A tensor between two changes: what it must be, and who changes it next."""

    expected: list[Expected]
    then: int | None
    """The adapter that writes its values next; None for the last stage."""


class Chain:
    """Adapters in the order in which they are applied."""

    def __init__(self, adapters: Sequence[SparseAdapter]) -> None:
        """Raises `AdapterMismatchError` if one was made for other weights than those before it leave."""
        if not adapters:
            raise AdapterError("no adapter was given: name at least one")
        self.adapters = list(adapters)
        self._check_order()

    def check_fits(self, base: Tensors) -> None:
        """Check names and shapes. Raises `AdapterMismatchError` naming the tensors that differ."""
        shapes = {name: base.shape(name) for name in base.keys()}
        for place, adapter in enumerate(self.adapters):
            try:
                adapter.mask.verify_shapes(shapes, base.label)
            except MaskMismatchError as error:
                raise self._foreign(place, error.tensors) from error

    def stages(self, name: str) -> list[Stage]:
        """Return what a tensor goes through, beginning with the base's."""
        stages: list[Stage] = []
        expected: list[Expected] = []
        for place, adapter in enumerate(self.adapters):
            if name not in adapter.mask:
                continue
            before = adapter.mask.provenance.base_hashes.get(name)
            expected += [Expected(before, place, False)] if before else []
            if adapter.count(name):
                stages.append(Stage(expected, place))
                after = adapter.result_hashes.get(name)
                expected = [Expected(after, place, True)] if after else []
        return [*stages, Stage(expected, None)]

    def check_found(self, wrong: Mapping[str, Expected]) -> None:
        """Raise the error for tensors that were not as expected; `wrong` has the first of each."""
        if not wrong:
            return
        first = min(wrong.values(), key=lambda one: (one.place, one.is_result))
        names = [
            name
            for name, one in sorted(wrong.items())
            if (one.place, one.is_result) == (first.place, first.is_result)
        ]
        tensors = dict.fromkeys(names, "other values")
        if not first.is_result:
            raise self._foreign(first.place, tensors)
        label = self.adapters[first.place].label
        raise AdapterFileError(
            f"{label} is damaged in {', '.join(names[:3])}: with its values in place the weights are "
            "not what it says they become, so get the file again"
        )

    def _foreign(self, place: int, tensors: dict[str, str]) -> AdapterMismatchError:
        adapter = self.adapters[place]
        if place:
            before = self.adapters[place - 1].label
            return AdapterMismatchError(
                f"the patch {adapter.label} was made for other weights than {before} leaves: "
                f"{named(tensors)}; is a patch before it missing, or in another order?",
                tensors,
            )
        after = ", after the patches that came before" if len(self.adapters) > 1 else ""
        made_for = adapter.mask.provenance.base or "another base"
        return AdapterMismatchError(
            f"the adapter {adapter.label} was made for {made_for}, and does not fit: "
            f"{named(tensors)}; apply it to the base it was made for{after}",
            tensors,
        )

    def _check_order(self) -> None:
        """Compare the headers alone, so that a gap is found before any weight is read."""
        known: dict[str, str | None] = {}
        for place, adapter in enumerate(self.adapters):
            expected = adapter.mask.provenance.base_hashes
            wrong = {
                name: "other values"
                for name, digest in expected.items()
                if _contradict(known.get(name), digest)
            }
            if wrong:
                raise self._foreign(place, wrong)
            results = adapter.result_hashes
            known |= expected | {name: results.get(name) for name in adapter.touched}


class StateHash:
    """The hash of a tensor as an adapter knew it, perhaps in a narrower dtype than it is held in."""

    def __init__(self, expected: Expected, shape: torch.Size) -> None:
        self.expected = expected
        self._dtype = _DTYPES.get(expected.digest.partition(":")[0])
        self._hash = None if self._dtype is None else TensorHash(self._dtype, shape)

    def update(self, piece: Tensor, content: memoryview) -> None:
        """Take in the next coordinates; `content` is their memory."""
        if self._hash is None or self._dtype is None:
            return
        if piece.dtype == self._dtype:
            return self._hash.update_bytes(content)
        moved, lost = cast(piece, self._dtype)
        if lost is not None and bool(lost.any()):
            self._hash = None
        else:
            self._hash.update(moved)

    @property
    def is_met(self) -> bool:
        """Whether the tensor is what was expected."""
        return self._hash is not None and self._hash.digest() == self.expected.digest


def _contradict(ours: str | None, theirs: str) -> bool:
    """Whether two hashes are of different content; in two dtypes they cannot be compared."""
    if ours is None or ours.partition(":")[0] != theirs.partition(":")[0]:
        return False
    return ours != theirs
