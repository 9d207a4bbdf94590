"""The Mask: which coordinates of each checkpoint tensor, with set algebra and provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparseopd.artifacts import Provenance
from sparseopd.errors import MaskError, MaskMismatchError
from sparseopd.masks import file
from sparseopd.masks.bitmap import Bitmap, Bitmaps
from sparseopd.pairs.tensors import Source, matches_hash, open_tensors

OTHER_VALUES = "other values"
"""What is wrong with a tensor that has the name and the shape of the base's, and not its content."""


class Mask:
    """A set of coordinates of one model, keyed by checkpoint tensor name.

    Immutable. Tensors without a single chosen coordinate are part of the mask as well: they say that
    the mask knows the tensor and leaves it alone. A mask that was loaded reads a tensor's bits when
    they are asked for, and one that was combined computes them then, so none needs much memory.
    """

    def __init__(self, bitmaps: Bitmaps, provenance: Provenance | None = None) -> None:
        self.bitmaps = bitmaps
        self.provenance = provenance or Provenance()

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], provenance: Provenance | None = None
    ) -> Mask:
        """Make a mask from boolean tensors. Raises `MaskError` on any other dtype."""
        packed = {name: Bitmap.pack(name, tensor) for name, tensor in tensors.items()}
        return cls(Bitmaps.held(packed), provenance)

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Open a mask file. Raises `MaskFileError` on anything truncated, foreign or inconsistent.

        Only the header is read. A tensor's bits are read, and checked, when first used; altered ones
        raise `MaskFileError` then.
        """
        return cls(*file.read(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write the mask file, whole or not at all; the same mask gives the same bytes."""
        file.write(Path(path), self.bitmaps, self.provenance)

    @property
    def names(self) -> list[str]:
        """The checkpoint names the mask covers, sorted."""
        return list(self.bitmaps)

    def __contains__(self, name: str) -> bool:
        return name in self.bitmaps

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor's mask: bool, in the tensor's shape on disk."""
        return self.bitmaps[self._known(name)].unpack()

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a covered tensor."""
        return torch.Size(self.bitmaps.shape(self._known(name)))

    def count(self, name: str | None = None) -> int:
        """Return the number of chosen coordinates, of one tensor or of all."""
        if name is not None:
            return self.bitmaps.count(self._known(name))
        return sum(self.bitmaps.count(name) for name in self.bitmaps)

    def numel(self, name: str | None = None) -> int:
        """Return the number of covered coordinates, of one tensor or of all."""
        if name is not None:
            return self.shape(name).numel()
        return sum(self.shape(name).numel() for name in self.bitmaps)

    def density(self, name: str | None = None) -> float:
        """Return count / numel, 0 where nothing is covered."""
        numel = self.numel(name)
        return self.count(name) / numel if numel else 0.0

    def digest(self) -> str:
        """Return 32 hex digits that identify the chosen coordinates, whatever the provenance."""
        return file.digest(self.bitmaps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.digest() == other.digest()

    __hash__ = None  # pyright: ignore  # compares by content, which may be large

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, np.bitwise_and, "and")

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, np.bitwise_or, "or")

    def __sub__(self, other: Mask) -> Mask:
        return self._combine(other, lambda ours, theirs: ours & ~theirs, "minus")

    def __invert__(self) -> Mask:
        flipped = Bitmaps(self._shapes(), lambda name: self.bitmaps[name].invert())
        return Mask(flipped, self._derived(f"not ({_called(self)})"))

    def jaccard(self, other: Mask) -> float:
        """Return |A∩B| / |A∪B|; 1 for two empty masks."""
        both = (self & other).count()
        union = self.count() + other.count() - both
        return both / union if union else 1.0

    def coverage(self, other: Mask) -> float:
        """Return |A∩B| / |A|, the share of this mask that lies in the other; 1 if this is empty."""
        own = self.count()
        return (self & other).count() / own if own else 1.0

    def verify(self, source: Source) -> None:
        """Check that the mask belongs to a model: names, shapes and, where recorded, content.

        Raises `MaskMismatchError`, whose `tensors` say of each that is missing, or differs in shape or
        bits, what is wrong with it.
        """
        tensors = open_tensors(source)
        shapes, hashes = (
            {name: tensors.shape(name) for name in tensors.keys()},
            self.provenance.base_hashes,
        )
        try:
            self.verify_shapes(shapes, tensors.label)
        except MaskMismatchError as error:
            fits = [name for name in hashes if name in shapes and name not in error.tensors]
            changed = [name for name in fits if not matches_hash(tensors, name, hashes[name])]
            error.tensors |= dict.fromkeys(changed, OTHER_VALUES)
            raise
        changed = [
            name
            for name in self.bitmaps
            if name in hashes and not matches_hash(tensors, name, hashes[name])
        ]
        if changed:
            base = f" {self.provenance.base}" if self.provenance.base else ""
            raise MaskMismatchError(
                f"the mask was made for other weights than {tensors.label}: {listing(changed)} "
                f"differ from its base{base}; use that base, or discover a mask for this model",
                dict.fromkeys(changed, OTHER_VALUES),
            )

    def verify_shapes(self, shapes: Mapping[str, torch.Size], label: str) -> None:
        """Check names and shapes only; `label` says whose they are."""
        missing = [name for name in self.bitmaps if name not in shapes]
        other = {
            name: f"{tuple(shapes[name])} instead of {self.bitmaps.shape(name)}"
            for name in self.bitmaps
            if name in shapes and tuple(shapes[name]) != self.bitmaps.shape(name)
        }
        wrong = {**dict.fromkeys(missing, "missing"), **other}
        if missing:
            raise MaskMismatchError(
                f"the mask covers {len(self.bitmaps)} tensors, {label} lacks {len(missing)} of them "
                f"({listing(missing)}): discover a mask for this model",
                wrong,
            )
        for name in other:
            raise MaskMismatchError(
                f"{name} is {self.bitmaps.shape(name)} in the mask and {tuple(shapes[name])} in "
                f"{label}: discover a mask for this model",
                wrong,
            )

    def require_same_model(self, other: Mask) -> None:
        """Raise `MaskMismatchError` if two masks cover different tensors, or other weights in them."""
        different = sorted(self.bitmaps.keys() ^ other.bitmaps.keys()) or [
            name for name in self.bitmaps if self.bitmaps.shape(name) != other.bitmaps.shape(name)
        ]
        if different:
            raise MaskMismatchError(
                f"the two masks belong to different models: they differ in {listing(different)}",
                dict.fromkeys(different, "not in both, or of another shape"),
            )
        ours, theirs = self.provenance.base_hashes, other.provenance.base_hashes
        changed = [name for name in self.bitmaps if name in ours and ours[name] != theirs.get(name)]
        if theirs and changed:
            raise MaskMismatchError(
                f"the two masks were made for different weights, {self.provenance.base} and "
                f"{other.provenance.base}: {listing(changed)} differ in values or dtype, so their "
                "coordinates may not mean the same; make both from one checkpoint",
                dict.fromkeys(changed, OTHER_VALUES),
            )

    def __repr__(self) -> str:
        return (
            f"Mask({self.count():,} of {self.numel():,} coordinates in {len(self.bitmaps)} tensors)"
        )

    def _known(self, name: str) -> str:
        if name not in self.bitmaps:
            raise MaskError(f"the mask does not cover {name}; it has {listing(self.names)}")
        return name

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.bitmaps.shape(name) for name in self.bitmaps}

    def _derived(self, selector: str, other: Mask | None = None) -> Provenance:
        """What a mask computed from others says of itself."""
        known = self.provenance
        if other is not None and not known.base_hashes:
            known = other.provenance
        return Provenance(
            base=known.base,
            revision=known.revision,
            base_hashes=known.base_hashes,
            selector=selector,
            version=known.version,
        )

    def _combine(
        self, other: Mask, rule: Callable[[np.ndarray, np.ndarray], np.ndarray], word: str
    ) -> Mask:
        self.require_same_model(other)

        def read(name: str) -> Bitmap:
            ours, theirs = self.bitmaps[name], other.bitmaps[name]
            return Bitmap(ours.shape, rule(ours.bits, theirs.bits))

        label = f"({_called(self)}) {word} ({_called(other)})"
        return Mask(Bitmaps(self._shapes(), read), self._derived(label, other))


def _called(mask: Mask) -> str:
    return mask.provenance.selector or "mask"


def listing(names: Sequence[str], shown: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
