"""A safetensors file written tensor by tensor, in memory that does not grow with it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sparseopd.adapter_files.format import raw
from sparseopd.pairs.folder import FLOATS

_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_NAMES |= {torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64"}
_COPIED = 8 << 20
"""Bytes copied at a time."""


class Container:
    """Collects tensors in temporary files, one for each size of number, and joins them at the end.

    safetensors files are contiguous, and a number may be read only where its offset is a multiple of
    its size, so the wider ones come first.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Args: `folder` is where the temporary files lie."""
        self._folder, self._metadata = folder, dict(metadata)
        self._stack = ExitStack()
        self._files: dict[int, IO[bytes]] = {}
        self._placed: dict[int, list[tuple[str, str, list[int], int]]] = {}

    def add(self, key: str, tensor: Tensor) -> None:
        """Append a tensor, contiguous and on the CPU."""
        size = tensor.dtype.itemsize
        if size not in self._files:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed by the stack
            self._files[size] = self._stack.enter_context(file)
            self._placed[size] = []
        content = raw(tensor)
        self._files[size].write(content)
        self._placed[size].append((key, _NAMES[tensor.dtype], [*tensor.shape], len(content)))

    def write(self, path: Path) -> None:
        """Write the file, and forget the tensors."""
        header: dict[str, Any] = {"__metadata__": self._metadata}
        end = 0
        for size in sorted(self._files, reverse=True):
            for key, dtype, shape, length in self._placed[size]:
                header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
                end += length
        content = json.dumps(header, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        with path.open("wb") as file, self._stack:
            file.write(len(content).to_bytes(8, "little") + content)
            for size in sorted(self._files, reverse=True):
                self._files[size].seek(0)
                shutil.copyfileobj(self._files[size], file, _COPIED)

    def close(self) -> None:
        """Forget the tensors."""
        self._stack.close()
