"""The tensors of an adapter's file, read one at a time."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import torch
from safetensors import safe_open
from torch import Tensor

from sparseopd.pairs.folder import FLOATS

RESIDENT_BYTES = 32 << 20
"""A file's memory map is closed after this much of it was read."""
_KINDS = {"U8": torch.uint8, **FLOATS}
Facts = dict[str, tuple[torch.dtype | None, tuple[int, ...]]]
"""Dtype, None for one that no adapter has, and shape of each stored tensor."""


class StoredTensors:
    """The tensors of a file; several threads may read them.

    A memory map keeps every page that it has shown, so the file is opened anew now and then.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._shown, self._lock = path, 0, Lock()
        self._content = safe_open(path, framework="pt")
        self.facts = {key: _facts_of(self._content, key) for key in self._content.keys()}

    def read(self, key: str) -> Tensor:
        """Return a tensor by its key."""
        with self._lock:
            if self._shown > RESIDENT_BYTES:
                self._content, self._shown = safe_open(self._path, framework="pt"), 0
            found = self._content.get_tensor(key)
            self._shown += found.nbytes
            return found


def _facts_of(content: safe_open, key: str) -> tuple[torch.dtype | None, tuple[int, ...]]:
    stored = content.get_slice(key)
    return _KINDS.get(stored.get_dtype()), tuple(stored.get_shape())
