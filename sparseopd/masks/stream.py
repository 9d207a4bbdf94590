"""Work on checkpoints piece by piece, on all cores, in memory that does not grow with the model.

torch and numpy release the interpreter while they compute, so plain threads are enough; each runs
torch single-threaded, because pieces are too small to be split again.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_THREADS = 8
"""Each works on a piece of its own, so more would cost memory; reading is the limit by then."""
SHELF_BYTES = 192 << 20
"""What a `Shelf` holds in memory before it moves to a temporary file."""


@dataclass(frozen=True)
class Piece:
    """The coordinates start…stop of one tensor, row-major, in the base and in its tuned sibling."""

    name: str
    start: int
    stop: int
    base: Tensor
    """(stop - start,), in the stored dtype, not to be written to."""
    tuned: Tensor | None = None
    """The same of the tuned checkpoint, if there is one."""
    update: Tensor | None = None
    """float32 Δ itself, where an adapter gives that instead."""

    @property
    def numel(self) -> int:
        """Number of coordinates."""
        return self.stop - self.start


class Scratch(threading.local):
    """Buffers that a thread uses again for every piece: fresh ones cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, use: str, numel: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return an uninitialised (numel,) buffer, valid until the same use asks again."""
        held = self._buffers.get((use, dtype))
        if held is None or len(held) < numel:
            held = self._buffers[use, dtype] = torch.empty(numel, dtype=dtype)
        return held[:numel]


def for_each(
    items: Iterable[Item], work: Callable[[Item], Result], ahead: int = 4
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) in order, working on several items at a time.

    Up to `ahead` times as many as there are threads are begun before the first is asked for.
    """
    before = torch.get_num_threads()
    threads = min(MOST_THREADS, before)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > ahead * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # torch hands the workers' setting on to new threads


@dataclass(frozen=True)
class Kept:
    """Where on a shelf an array lies: in memory, or from an offset of its file."""

    held: np.ndarray | None
    offset: int
    length: int
    dtype: np.dtype


class Shelf:
    """Arrays put away between two passes: in memory while they are few, else in a temporary file.

    Several threads may use it.
    """

    def __init__(self) -> None:
        self._left = SHELF_BYTES
        self._file: IO[bytes] | None = None
        self._end = 0
        self._lock = threading.Lock()

    def put(self, array: np.ndarray) -> Kept:
        """Keep a one-dimensional array, which must not be written to; return how to get it back."""
        with self._lock:
            if array.nbytes <= self._left:
                self._left -= array.nbytes
                return Kept(array, 0, len(array), array.dtype)
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the shelf
            kept = Kept(None, self._end, len(array), array.dtype)
            self._file.seek(self._end)
            self._file.write(np.ascontiguousarray(array).data)
            self._end += array.nbytes
            return kept

    def get(self, kept: Kept) -> np.ndarray:
        """Return a kept array, not to be written to."""
        if kept.held is not None:
            return kept.held
        assert self._file is not None
        with self._lock:
            self._file.seek(kept.offset)
            content = self._file.read(kept.length * kept.dtype.itemsize)
        return np.frombuffer(content, dtype=kept.dtype)
