"""Write an adapter, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from sparseopd.adapter_files.container import Container
from sparseopd.adapter_files.format import (
    CONFIG,
    HEADER,
    PARTS,
    WEIGHTS,
    Entry,
    Header,
    checksum,
    config,
)
from sparseopd.artifacts import Provenance, folder_written_whole
from sparseopd.errors import AdapterError
from sparseopd.masks.bitmap import Bitmap
from sparseopd.masks.payload import pack


class AdapterWriter:
    """Writes an adapter's folder, whole or not at all, one tensor in memory at a time.

    with AdapterWriter(folder) as writer:
        for name in base.keys():
            writer.add(name, bitmap, values, base_hash=…)
        writer.finish(provenance)
    """

    def __init__(self, folder: Path) -> None:
        self.entries: list[Entry] = []
        self._folder = folder_written_whole(folder)

    def __enter__(self) -> AdapterWriter:
        self._path = self._folder.__enter__()
        self._container = Container(self._path, {"format": "pt"})  # as PEFT itself writes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()
        self._folder.__exit__(kind, error, trace)

    @property
    def path(self) -> Path:
        """The temporary folder, for what else belongs to the adapter."""
        return self._path

    def add(
        self,
        name: str,
        bitmap: Bitmap,
        values: Tensor | None = None,
        *,
        masters: Tensor | None = None,
        base_hash: str | None = None,
        result_hash: str | None = None,
    ) -> None:
        """Append a tensor of the base, in sorted order; `values` (k,) in its dtype, by flat position."""
        entry, tensors = stored(
            name, bitmap, values, masters=masters, base_hash=base_hash, result_hash=result_hash
        )
        self.entries.append(entry)
        for key, tensor in tensors.items():
            self._container.add(key, tensor)

    def finish(self, provenance: Provenance, teacher: str = "") -> Header:
        """Write the files. Raises `AdapterError` if no coordinate was chosen."""
        if not any(entry.count for entry in self.entries):
            raise AdapterError(
                "the adapter would be empty: no coordinate differs, or none is chosen"
            )
        header = Header(self.entries, provenance, teacher)
        self._container.add(HEADER, header.to_tensor())
        self._container.write(self._path / WEIGHTS)
        content = json.dumps(config(header), indent=1) + "\n"
        (self._path / CONFIG).write_text(content, encoding="utf-8")
        return header


def stored(
    name: str,
    bitmap: Bitmap,
    values: Tensor | None,
    *,
    masters: Tensor | None = None,
    base_hash: str | None = None,
    result_hash: str | None = None,
) -> tuple[Entry, dict[str, Tensor]]:
    """Return what the header says of a tensor, and what is stored of it, by key."""
    if not bitmap.count:
        return Entry(name, bitmap.shape, 0, base_hash), {}
    assert values is not None and values.shape == (bitmap.count,)
    payload, mask_sum = pack(bitmap)
    held = [one.detach().cpu().contiguous() for one in (values, masters) if one is not None]
    sums = (mask_sum, *(checksum(one) for one in held))
    entry = Entry(name, bitmap.shape, bitmap.count, base_hash, result_hash, sums)
    tensors = [torch.from_numpy(payload.copy()), *held]
    return entry, {f"{name}.{part}": one for part, one in zip(PARTS, tensors, strict=False)}
