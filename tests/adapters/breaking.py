"""Odd bits strewn over a base, and writes of values that stop halfway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from sparseopd.masks.places import Places
from tests.adapters.adapted import as_bits

STRANGE = {
    torch.float32: (0x7FA00001, -1, -0x80000000, 0x7F800000, 1),
    torch.bfloat16: (0x7F81, -1, -0x8000, 0x7F80, 1),
    torch.float16: (0x7C01, -1, -0x8000, 0x7C00, 1),
}
"""Bits of a signalling NaN, a NaN full of ones, −0.0, infinity and the smallest number."""


def strange(base: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The base with such bits strewn in."""
    generator = torch.Generator().manual_seed(7)
    for weight in base.to(dtype).parameters():
        bits = as_bits(weight.data)
        drawn = torch.randint(0, 12, bits.shape, generator=generator)
        for number, pattern in enumerate(STRANGE[dtype]):
            bits[drawn == number] = pattern
    return base


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Broken(Exception):
    """What breaks an operation off."""


@contextmanager
def breaking(at: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Have the `at`-th write of values stop halfway."""
    seen, put = [0], Places.put

    def stop_halfway(self: Places, dense: Tensor, values: Tensor) -> None:
        seen[0] += 1
        if seen[0] != at:
            return put(self, dense, values)
        half = self.take(dense).clone()
        half[: self.k // 2] = values[: self.k // 2].to(half)
        put(self, dense, half)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "put", stop_halfway)
        yield seen
