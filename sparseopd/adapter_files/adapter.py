"""SparseAdapter: an adapter that was written, read tensor by tensor and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from sparseopd.adapter_files.bits import holds
from sparseopd.adapter_files.format import HEADER, PARTS, WEIGHTS, Entry, Header, checksum, state
from sparseopd.adapter_files.stored import Facts, StoredTensors
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError, MaskMismatchError
from sparseopd.masks.bitmap import Bitmap, Bitmaps, numel_of
from sparseopd.masks.coding import BLOCK
from sparseopd.masks.mask import OTHER_VALUES, Mask
from sparseopd.masks.payload import LARGEST, is_plausible, stretches, unpack
from sparseopd.pairs.folder import FLOATS
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.tensors import Source, open_tensors


class SparseAdapter:
    """New values at some coordinates of one base, and which base that is.

    Only the header is read at first. A tensor's mask or values are read, and checked, when asked for.
    """

    def __init__(self, label: str, facts: Facts, read: Callable[[str], Tensor]) -> None:
        """Args: `read` returns a stored tensor by its key. Raises `AdapterFileError`."""
        self.label = label
        self._read, self._facts = read, facts
        header = self._read_header()
        self._entries = {entry.name: entry for entry in header.entries}
        self._check_entries(header.entries)
        bitmaps = Bitmaps(
            {name: entry.shape for name, entry in self._entries.items()},
            self._bitmap,
            {name: entry.count for name, entry in self._entries.items()},
        )
        self.mask = Mask(bitmaps, header.provenance)
        self.teacher = header.teacher

    @classmethod
    def load(cls, source: str | Path) -> SparseAdapter:
        """Open an adapter's folder, or a hub id. Raises `AdapterFileError` on a damaged or foreign file."""
        folder = weights_folder(str(source))
        path = folder / WEIGHTS
        if not path.is_file():
            raise AdapterError(f"{source} holds no adapter ({WEIGHTS} is missing)")
        try:
            stored = StoredTensors(path)
        except (SafetensorError, OSError) as error:
            raise AdapterFileError(
                f"{path} is not a safetensors file, or is cut short ({error})"
            ) from error
        return cls(str(source), stored.facts, stored.read)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], label: str) -> SparseAdapter:
        """Read an adapter whose file has been read already."""
        facts: Facts = {key: (one.dtype, tuple(one.shape)) for key, one in tensors.items()}
        return cls(label, facts, lambda key: tensors[key].cpu())

    @property
    def names(self) -> list[str]:
        """The base's tensors, sorted."""
        return list(self._entries)

    @property
    def touched(self) -> list[str]:
        """The tensors with new values, sorted."""
        return [name for name, entry in self._entries.items() if entry.count]

    @property
    def has_masters(self) -> bool:
        """Whether some values are stored in float32 as well."""
        return any(entry.has_masters for entry in self._entries.values())

    @property
    def result_hashes(self) -> dict[str, str]:
        """The hashes that touched tensors have once the values are applied, where known."""
        hashes = {name: entry.result_hash for name, entry in self._entries.items()}
        return {name: digest for name, digest in hashes.items() if digest}

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a tensor of the base."""
        return self.mask.shape(name)

    def count(self, name: str | None = None) -> int:
        """Return the number of new values, of one tensor or of all."""
        return self.mask.count(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a touched tensor's values."""
        dtype = self._facts[f"{name}.values"][0]
        assert dtype is not None
        return dtype

    def stretches(self, name: str, size: int) -> list[tuple[int, int, np.ndarray]]:
        """Return (coordinates, values, payload) of each stretch of a touched tensor, in order.

        `size` coordinates each, a multiple of `masks.coding.BLOCK`; `masks.coding.positions` finds out
        where in a stretch the values go. Raises `AdapterFileError` if the mask is damaged.
        """
        entry = self._entries[name]
        try:
            payload = self._read(f"{name}.mask").numpy()
            return stretches(entry.shape, entry.count, entry.checksums[0], payload, size)
        except (SafetensorError, OSError, ValueError) as error:
            raise AdapterFileError(f"{self.label} is damaged in {name}: {error}") from error

    def values(self, name: str) -> Tensor:
        """Return a touched tensor's new values, (k,) by flat position, in the base's dtype."""
        return self._checked(self._entries[name], "values")

    def masters(self, name: str) -> Tensor | None:
        """Return the same in float32, None where they are not stored."""
        entry = self._entries[name]
        return self._checked(entry, "masters") if entry.has_masters else None

    def base_state(self) -> str:
        """Return a digest of the checkpoint it belongs to, empty if its hashes are not known."""
        hashes = self.mask.provenance.base_hashes
        return state(hashes) if len(hashes) == len(self._entries) else ""

    def result_state(self) -> str:
        """Return a digest of the checkpoint that applying it makes, empty if not known."""
        results = self.result_hashes
        if not self.base_state() or len(results) < len(self.touched):
            return ""
        return state({**self.mask.provenance.base_hashes, **results})

    def check(self) -> None:
        """Read everything. Raises `AdapterFileError` naming what is damaged."""
        self.check_sums()
        for name in self.touched:
            self._bitmap(name)

    def check_sums(self) -> None:
        """Read everything and compare checksums, without finding out what the masks choose.

        Raises `AdapterFileError` naming what is damaged.
        """
        for name in self.touched:
            self.stretches(name, BLOCK)
            self.values(name)
            self.masters(name)

    def verify(self, source: Source) -> None:
        """Check that it belongs to a model: names, shapes and, where recorded, content.

        Raises `AdapterMismatchError`, whose `tensors` say of each what is wrong with it.
        """
        tensors = open_tensors(source)
        try:
            self.mask.verify(tensors)
        except MaskMismatchError as error:
            base = self.mask.provenance.base
            made = f"the adapter {self.label} was made for {base or 'another base'}"
            for name in (name for name, what in error.tensors.items() if what == OTHER_VALUES):
                stored, held = self._base_dtype(name), tensors.dtype(name)
                if stored is not None and held.is_floating_point and not holds(held, stored):
                    raise AdapterMismatchError(
                        f"{made}, stored in {str(stored)[6:]}, and {tensors.label} is in {str(held)[6:]}, "
                        "which lacks some of its numbers: load the base in the dtype it is stored in",
                        error.tensors,
                    ) from error
            raise AdapterMismatchError(
                f"{made}, and does not fit: {named(error.tensors)}; apply it to the base it was made for",
                error.tensors,
            ) from error

    def _base_dtype(self, name: str) -> torch.dtype | None:
        """The dtype a tensor of the base is stored in, None where that is not known."""
        digest = self.mask.provenance.base_hashes.get(name, "")
        dtype = getattr(torch, digest.partition(":")[0], None)
        return dtype if dtype in FLOATS.values() else None

    def _read_header(self) -> Header:
        if HEADER not in self._facts:
            raise AdapterFileError(
                f"{self.label} is an adapter of another kind (its file lacks the tensor {HEADER}): convert "
                "it with sparseopd adapter convert"
            )
        try:
            return Header.from_bytes(self._read(HEADER).numpy().tobytes())
        except (ValueError, SafetensorError, OSError) as error:
            reason = str(error).split("\n")[0]  # pydantic goes on for lines
            raise AdapterFileError(f"{self.label} is not a whole adapter: {reason}") from error

    def _check_entries(self, entries: list[Entry]) -> None:
        """Check what is stored against the header, before anything is allocated."""
        expected: Facts = {HEADER: (torch.uint8, self._facts[HEADER][1])}
        for entry in entries:
            if numel_of(entry.shape) > LARGEST:
                raise AdapterFileError(
                    f"{self.label} is inconsistent: no tensor is as large as {entry.name}, "
                    f"{entry.shape}; get the file again"
                )
            for part, _ in zip(PARTS, entry.checksums, strict=False):
                key = f"{entry.name}.{part}"
                dtype, shape = self._facts.get(key, (None, ()))
                fits = {
                    "mask": dtype == torch.uint8
                    and len(shape) == 1
                    and is_plausible(entry.shape, entry.count, shape[0]),
                    "values": dtype in FLOATS.values() and shape == (entry.count,),
                    "masters": dtype == torch.float32 and shape == (entry.count,),
                }
                if not fits[part]:
                    raise AdapterFileError(
                        f"{self.label} is inconsistent: {key} is not as described"
                    )
                expected[key] = (dtype, shape)
        names = [entry.name for entry in entries]
        if self._facts.keys() != expected.keys() or names != sorted(set(names)):
            raise AdapterFileError(
                f"{self.label} is inconsistent: it holds other tensors than it lists"
            )

    def _bitmap(self, name: str) -> Bitmap:
        entry = self._entries[name]
        if not entry.count:
            return Bitmap.empty(entry.shape)
        try:
            payload = self._read(f"{name}.mask").numpy()
            return unpack(entry.shape, entry.count, entry.checksums[0], payload)
        except (SafetensorError, OSError, ValueError) as error:
            raise AdapterFileError(f"{self.label} is damaged in {name}: {error}") from error

    def _checked(self, entry: Entry, part: str) -> Tensor:
        try:
            found = self._read(f"{entry.name}.{part}")
        except (SafetensorError, OSError) as error:
            raise AdapterFileError(f"{self.label} is damaged in {entry.name}: {error}") from error
        if checksum(found) != entry.checksums[PARTS.index(part)]:
            raise AdapterFileError(
                f"{self.label} is damaged in {entry.name}: its {part} do not match their checksum"
            )
        return found


def named(tensors: Mapping[str, str], shown: int = 3) -> str:
    """Return what is wrong with the first few tensors, and how many more there are."""
    first = [f"{name} ({what})" for name, what in list(tensors.items())[:shown]]
    more = f" and {len(tensors) - shown} more" if len(tensors) > shown else ""
    return ", ".join(first) + more
