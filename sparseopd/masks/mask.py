"""The Mask: one bitmap per checkpoint tensor, with set algebra and provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparseopd.artifacts import Provenance
from sparseopd.errors import MaskError, MaskMismatchError
from sparseopd.masks import file
from sparseopd.masks.bitmap import Bitmap
from sparseopd.pairs.tensors import Tensors, matches_hash, open_tensors


class Mask:
    """A set of coordinates of one model, keyed by checkpoint tensor name.

    Immutable. Tensors without a single chosen coordinate are part of the mask as well: they say that
    the mask knows the tensor and leaves it alone.
    """

    def __init__(self, bitmaps: Mapping[str, Bitmap], provenance: Provenance | None = None) -> None:
        self._bitmaps = {name: bitmaps[name] for name in sorted(bitmaps)}
        self.provenance = provenance or Provenance()

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], provenance: Provenance | None = None
    ) -> Mask:
        """Make a mask from boolean tensors. Raises `MaskError` on any other dtype."""
        return cls(
            {name: Bitmap.pack(name, tensor) for name, tensor in tensors.items()}, provenance
        )

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Read a mask file. Raises `MaskFileError` on anything truncated, altered or foreign."""
        return cls(*file.read(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write the mask file, whole or not at all; the same mask gives the same bytes."""
        file.write(Path(path), self._bitmaps, self.provenance)

    @property
    def names(self) -> list[str]:
        """The checkpoint names the mask covers, sorted."""
        return list(self._bitmaps)

    def __contains__(self, name: str) -> bool:
        return name in self._bitmaps

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor's mask: bool, in the tensor's shape on disk."""
        return self._bitmap(name).unpack()

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a covered tensor."""
        return torch.Size(self._bitmap(name).shape)

    def count(self, name: str | None = None) -> int:
        """Return the number of chosen coordinates, of one tensor or of all."""
        if name is not None:
            return self._bitmap(name).count
        return sum(bitmap.count for bitmap in self._bitmaps.values())

    def numel(self, name: str | None = None) -> int:
        """Return the number of covered coordinates, of one tensor or of all."""
        if name is not None:
            return self._bitmap(name).numel
        return sum(bitmap.numel for bitmap in self._bitmaps.values())

    def density(self, name: str | None = None) -> float:
        """Return count / numel, 0 where nothing is covered."""
        numel = self.numel(name)
        return self.count(name) / numel if numel else 0.0

    def digest(self) -> str:
        """Return 32 hex digits that identify the chosen coordinates, whatever the provenance."""
        return file.digest(self._bitmaps)

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
        flipped = {name: bitmap.invert() for name, bitmap in self._bitmaps.items()}
        return Mask(
            flipped, replace(self.provenance, selector=f"not {self.provenance.selector}".strip())
        )

    def jaccard(self, other: Mask) -> float:
        """Return |A∩B| / |A∪B|; 1 for two empty masks."""
        union = (self | other).count()
        return (self & other).count() / union if union else 1.0

    def coverage(self, other: Mask) -> float:
        """Return |A∩B| / |A|, the share of this mask that lies in the other; 1 if this is empty."""
        own = self.count()
        return (self & other).count() / own if own else 1.0

    def verify(self, source: str | Path | nn.Module | Tensors) -> None:
        """Check that the mask belongs to a model: names, shapes and, where recorded, content.

        Raises `MaskMismatchError` naming the tensors that are missing, differ in shape or in bits.
        """
        tensors = open_tensors(source) if isinstance(source, (str, Path, nn.Module)) else source
        self.verify_shapes({name: tensors.shape(name) for name in tensors.keys()}, tensors.label)
        hashes = self.provenance.base_hashes
        changed = [
            name
            for name in self._bitmaps
            if name in hashes and not matches_hash(tensors[name], hashes[name])
        ]
        if changed:
            raise MaskMismatchError(
                f"the mask was made for other weights than {tensors.label}: {_listing(changed)} "
                f"differ from its base {self.provenance.base or ''}".rstrip()
                + "; use that base, or discover a mask for this model"
            )

    def verify_shapes(self, shapes: Mapping[str, torch.Size], label: str) -> None:
        """Check names and shapes only; `label` says whose they are."""
        missing = [name for name in self._bitmaps if name not in shapes]
        if missing:
            raise MaskMismatchError(
                f"the mask covers {len(self._bitmaps)} tensors, {label} lacks {len(missing)} of them "
                f"({_listing(missing)}): discover a mask for this model"
            )
        for name, bitmap in self._bitmaps.items():
            if tuple(bitmap.shape) != tuple(shapes[name]):
                raise MaskMismatchError(
                    f"{name} is {tuple(bitmap.shape)} in the mask and {tuple(shapes[name])} in {label}: "
                    "discover a mask for this model"
                )

    def __repr__(self) -> str:
        return f"Mask({self.count():,} of {self.numel():,} coordinates in {len(self._bitmaps)} tensors)"

    def _bitmap(self, name: str) -> Bitmap:
        if name not in self._bitmaps:
            raise MaskError(f"the mask does not cover {name}; it has {_listing(self.names)}")
        return self._bitmaps[name]

    def _combine(
        self, other: Mask, rule: Callable[[np.ndarray, np.ndarray], np.ndarray], word: str
    ) -> Mask:
        different = sorted(self._bitmaps.keys() ^ other._bitmaps.keys()) or [
            name
            for name, bitmap in self._bitmaps.items()
            if bitmap.shape != other._bitmaps[name].shape
        ]
        if different:
            raise MaskMismatchError(
                f"the two masks belong to different models: they differ in {_listing(different)}"
            )
        combined = {
            name: Bitmap(bitmap.shape, rule(bitmap.bits, other._bitmaps[name].bits))
            for name, bitmap in self._bitmaps.items()
        }
        label = f"({self.provenance.selector}) {word} ({other.provenance.selector})"
        kept = self.provenance if self.provenance.base_hashes else other.provenance
        return Mask(combined, replace(kept, selector=label, settings={}))


def _listing(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
