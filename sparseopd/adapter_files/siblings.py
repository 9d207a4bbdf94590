"""What an adapter holds of each tensor, found by comparing a base with a tuned checkpoint in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from sparseopd.adapter_files.bits import as_integers, cast, differ, holds
from sparseopd.errors import AdapterError
from sparseopd.masks.bitmap import Bitmap
from sparseopd.masks.mask import Mask
from sparseopd.masks.stream import Piece, for_each
from sparseopd.pairs.tensors import TensorHash, Tensors, pieces


@dataclass(frozen=True)
class Counts:
    """What happened to coordinates, of one tensor or of all."""

    changed: int = 0
    """Those whose bits differ once both sides are in the base's dtype."""
    lost: int = 0
    """Changed ones that were not chosen, so that the adapter leaves them as they are in the base."""
    rounded: int = 0
    """Others whose tuned value has bits that the base's dtype cannot hold."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.changed + other.changed, self.lost + other.lost, self.rounded + other.rounded
        )


@dataclass(frozen=True)
class Found:
    """What an adapter holds of one tensor."""

    bitmap: Bitmap
    values: Tensor | None
    """(k,) in the base's dtype; None where no coordinate is chosen."""
    masters: Tensor | None
    """The same in float32, where the tuned checkpoint is more precise than the base."""
    base_hash: str
    result_hash: str
    counts: Counts


@dataclass(frozen=True)
class _Part:
    """A piece, and the mask of the tensor that it is of, if there is one."""

    piece: Piece
    chosen: Bitmap | None


@dataclass(frozen=True)
class _Compared:
    """What an adapter holds of one piece, and what is hashed of it."""

    chosen: np.ndarray
    values: Tensor
    masters: Tensor | None
    before: Tensor
    after: Tensor
    counts: Counts


class Siblings:
    """The tensors of a base and what a tuned checkpoint made of them, compared bit by bit."""

    def __init__(self, base: Tensors, tuned: Tensors, masters: bool) -> None:
        """Args: `masters` keeps float32 values as well. Raises `AdapterError` for models that are no siblings."""
        self._base, self._tuned, self._masters = base, tuned, masters
        self.names = base.keys()
        _check_siblings(base, tuned)

    @property
    def is_wider(self) -> bool:
        """Whether the tuned checkpoint is more precise than the base in some tensor."""
        return any(self._is_wider(name) for name in self.names)

    def bytes_of(self, name: str) -> int:
        """Return how many bytes comparing a tensor reads."""
        sizes = (self._base.dtype(name).itemsize, self._tuned.dtype(name).itemsize)
        return self._base.shape(name).numel() * sum(sizes)

    def tensors(self, mask: Mask | None) -> Iterator[tuple[str, Found]]:
        """Yield what an adapter holds of each tensor, sorted by name.

        Without a mask it holds what changed; with masters, also what changed in those alone.
        """

        def compare(part: _Part) -> _Compared:
            keeps_masters = self._masters and self._is_wider(part.piece.name)
            return _compare(part.piece, part.chosen, keeps_masters)

        for name, parts in groupby(for_each(self._parts(mask), compare, ahead=2), _name_of):
            yield name, self._join(name, (compared for _, compared in parts))

    def _parts(self, mask: Mask | None) -> Iterator[_Part]:
        for name in self.names:
            shape = self._base.shape(name)
            chosen = None
            if mask is not None:
                chosen = mask.bitmaps[name] if name in mask.bitmaps else Bitmap.empty(shape)
            for start, stop in pieces(shape.numel()) if shape.numel() else [(0, 0)]:
                base = self._base.flat(name, start, stop)
                tuned = self._tuned.flat(name, start, stop)
                yield _Part(Piece(name, start, stop, base, tuned), chosen)

    def _join(self, name: str, parts: Iterable[_Compared]) -> Found:
        shape, dtype = self._base.shape(name), self._base.dtype(name)
        before, after = TensorHash(dtype, shape), TensorHash(dtype, shape)
        bits: list[np.ndarray] = []
        values: list[Tensor] = []
        masters: list[Tensor] = []
        counts = Counts()
        for part in parts:
            before.update(part.before)
            after.update(part.after)
            bits.append(part.chosen)
            values.append(part.values)
            masters += [] if part.masters is None else [part.masters]
            counts += part.counts
        bitmap = Bitmap.join(shape, bits)
        return Found(
            bitmap,
            _joined(values) if bitmap.count else None,
            _joined(masters) if bitmap.count and masters else None,
            before.digest(),
            after.digest(),
            counts,
        )

    def _is_wider(self, name: str) -> bool:
        return not holds(self._base.dtype(name), self._tuned.dtype(name))


def _compare(piece: Piece, chosen: Bitmap | None, keeps_masters: bool) -> _Compared:
    base, tuned = piece.base, piece.tuned
    assert tuned is not None
    new, rounded = _as_stored(base, tuned)
    changed = differ(new, base)
    if chosen is not None:
        flags = chosen.flat(piece.start, piece.stop)
        # in integers, because copying floats may quieten a signalling NaN
        mixed = torch.where(flags, as_integers(new), as_integers(base))
        after, lost = mixed.view(base.dtype), changed & ~flags
    else:
        flags = changed | rounded if keeps_masters and rounded is not None else changed
        after, lost = new, torch.zeros_like(changed)
    counts = Counts(
        int(changed.sum()),
        int(lost.sum()),
        0 if rounded is None else int((rounded & ~lost).sum()),
    )
    where = flags.nonzero().squeeze(1)
    values = as_integers(new)[where].view(base.dtype)
    masters = tuned[where].float() if keeps_masters else None
    packed = np.packbits(flags.numpy(), bitorder="little")
    return _Compared(packed, values, masters, base, after, counts)


def _as_stored(base: Tensor, tuned: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the tuned values in the base's dtype, and where that lost bits."""
    new, rounded = cast(tuned, base.dtype)
    if rounded is not None and holds(tuned.dtype, base.dtype):
        # A NaN that did not move would change its payload on the way there and back.
        same = ~differ(base.to(tuned.dtype), tuned)
        new = torch.where(same, as_integers(base), as_integers(new)).view(base.dtype)
        rounded &= ~same
    return new, rounded


def _name_of(done: tuple[_Part, _Compared]) -> str:
    return done[0].piece.name


def _joined(parts: list[Tensor]) -> Tensor:
    """Return parts as one tensor, and let go of them."""
    whole = torch.cat([as_integers(part) for part in parts]).view(parts[0].dtype)
    parts.clear()
    return whole


def _check_siblings(base: Tensors, tuned: Tensors) -> None:
    ours, theirs = base.keys(), set(tuned.keys())
    for name in ours:
        if name not in theirs:
            raise AdapterError(
                f"{tuned.label} lacks {name}, which {base.label} has: give a checkpoint that was "
                "trained from this base"
            )
        if tuned.shape(name) != base.shape(name):
            raise AdapterError(
                f"{name} is {tuple(base.shape(name))} in {base.label} and "
                f"{tuple(tuned.shape(name))} in {tuned.label}: give a checkpoint that was trained "
                "from this base"
            )
    extra = sorted(theirs - set(ours))
    if extra:
        raise AdapterError(
            f"{tuned.label} has {extra[0]}, which {base.label} lacks: an adapter changes values and "
            "adds no tensors, so give a checkpoint that was trained from this base"
        )
