"""Tensors from a dictionary, read in pieces far smaller than a real checkpoint's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.pairs import tensors


class Held:
    """Implements `Tensors` over a dictionary."""

    revision = None
    folder = None

    def __init__(self, content: dict[str, Tensor], label: str = "the model") -> None:
        self._content, self.label = content, label

    def keys(self) -> list[str]:
        return sorted(self._content)

    def shape(self, name: str) -> torch.Size:
        return self._content[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._content[name].dtype

    def __getitem__(self, name: str) -> Tensor:
        return self._content[name]

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        return self._content[name].reshape(-1)[start:stop]


def compare(base: dict[str, Tensor], tuned: dict[str, Tensor] | None, **settings) -> Comparison:
    return Comparison(Held(base), None if tuned is None else Held(tuned), **settings)


@contextmanager
def small_pieces(size: int = 16) -> Iterator[None]:
    """Cut tensors into pieces of a few coordinates, so that tests cross their borders."""
    with mock.patch("sparseopd.masks.comparison.pieces", lambda n: tensors.pieces(n, size)):
        yield
