"""One shard of a checkpoint, copied with new values written over its tensors on the way.

One thread hashes, changes and writes all parts in order; others read them ahead, and find out where
values go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from sparseopd.adapter_files.bits import as_integers, cast
from sparseopd.adapter_files.chain import Chain, Expected, StateHash
from sparseopd.adapter_files.shards import Span
from sparseopd.adapter_files.stretches import Stretch, stretches
from sparseopd.masks.stream import for_each
from sparseopd.pairs.tensors import pieces

BLOCK = 1 << 20
"""Coordinates copied at once: a multiple of 8."""
MOST_BYTES = torch.float64.itemsize
"""What a coordinate takes."""


@dataclass(frozen=True)
class Job:
    """Bytes to copy, and the tensor whose new values they get; None for bytes copied as they are."""

    span: Span
    name: str | None
    """Of a repeated head, another than the span's own."""


@dataclass(frozen=True)
class Rewritten:
    """What became of a tensor."""

    k: int
    """Coordinates written, those that several adapters change counted each time."""
    rounded: int
    """New values that lost bits, because the base has a narrower dtype than the adapter."""
    wrong: Expected | None
    """The first expectation it did not meet."""


@dataclass(frozen=True)
class _Values:
    """What one adapter writes over a tensor."""

    numbers: np.ndarray
    """(k,), integers of the size of the tensor's numbers."""
    rounded: int
    stretches: Iterator[Stretch]


@dataclass(frozen=True)
class _Step:
    """A state a tensor goes through: what it must be, and what is written over it then."""

    hashes: list[StateHash]
    """None of them after a value was rounded: they could not be met."""
    values: _Values | None


@dataclass(frozen=True)
class _Block:
    """A part of a tensor, with the stretch of every step."""

    job: Job
    steps: list[_Step]
    start: int
    """Offset in the file."""
    size: int
    """In bytes."""
    stretches: tuple[Stretch | None, ...]
    is_last: bool


@dataclass(frozen=True)
class _Read:
    """The same as it was read."""

    room: np.ndarray
    """A buffer that begins with its bytes."""
    places: list[np.ndarray | None]
    """Where the values of every step go."""


def rewrite(
    source: Path, target: Path, jobs: Sequence[Job], chain: Chain, note: Callable[[int], None]
) -> dict[str, Rewritten]:
    """Copy a shard with a chain's values, and check every state that its tensors go through.

    Each tensor is read once. `note` is called with the number of bytes of every part written. Returns
    what became of the tensors, by the names in the file.
    """
    done: dict[str, Rewritten] = {}
    spare: list[np.ndarray] = []  # buffers to be used again: fresh ones cost more than a copy
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:

        def read(block: _Block) -> _Read:
            room = _spare(spare)
            _fill(old, room[: block.size].data, block.start)
            places = [None if one is None else one.positions() for one in block.stretches]
            return _Read(room, places)

        for block, found in for_each(_blocks(jobs, chain), read, ahead=2):
            content = found.room[: block.size]
            _change(content, block, found.places)
            _write(new, content.data)
            if block.is_last and block.job.name is not None:
                done[block.job.span.name] = _outcome(block.steps)
            note(block.size)
            spare.append(found.room)
    return done


def _blocks(jobs: Sequence[Job], chain: Chain) -> Iterator[_Block]:
    """Yield all parts of a shard, in order; of an empty tensor an empty one."""
    for job in jobs:
        steps = [] if job.name is None else _steps(job, job.name, chain)
        size = (job.span.dtype or torch.uint8).itemsize
        numel = (job.span.stop - job.span.start) // size
        streams = [repeat(None) if one.values is None else one.values.stretches for one in steps]
        for start, stop in pieces(numel, BLOCK) if numel else [(0, 0)]:
            parts = tuple(next(stream, None) for stream in streams)
            offset, length = job.span.start + start * size, (stop - start) * size
            yield _Block(job, steps, offset, length, parts, stop == numel)


def _steps(job: Job, name: str, chain: Chain) -> list[_Step]:
    dtype, shape = job.span.dtype, job.span.shape
    assert dtype is not None
    steps: list[_Step] = []
    trusted = True
    for stage in chain.stages(name):
        hashes = [StateHash(one, shape) for one in stage.expected] if trusted else []
        values = None
        if stage.then is not None:
            adapter = chain.adapters[stage.then]
            moved, lost = cast(adapter.values(name), dtype)
            rounded = 0 if lost is None else int(lost.sum())
            where = stretches(adapter, name, BLOCK)
            values = _Values(as_integers(moved).numpy(), rounded, where)
            trusted = trusted and not rounded
        steps.append(_Step(hashes, values))
    return steps


def _change(content: np.ndarray, block: _Block, places: list[np.ndarray | None]) -> None:
    """Take a part of a tensor through all its steps."""
    if not block.steps:
        return
    assert block.job.span.dtype is not None
    part = torch.from_numpy(content).view(block.job.span.dtype)
    numbers = as_integers(part).numpy()
    for step, stretch, where in zip(block.steps, block.stretches, places, strict=True):
        for one in step.hashes:
            one.update(part, content.data)
        if step.values is not None and stretch is not None:
            numbers[where] = step.values.numbers[stretch.first : stretch.last]


def _outcome(steps: list[_Step]) -> Rewritten:
    wrong = [one.expected for step in steps for one in step.hashes if not one.is_met]
    written = [step.values for step in steps if step.values is not None]
    return Rewritten(
        k=sum(len(one.numbers) for one in written),
        rounded=sum(one.rounded for one in written),
        wrong=wrong[0] if wrong else None,
    )


def _spare(rooms: list[np.ndarray]) -> np.ndarray:
    """Return a buffer that is free, or a new one."""
    try:
        return rooms.pop()  # no look before: another thread may take the last one
    except IndexError:
        return np.empty(BLOCK * MOST_BYTES, dtype=np.uint8)


def _fill(file: FileIO, buffer: memoryview, start: int) -> None:
    """Read from an offset until the buffer is full; several threads may."""
    done = 0
    while done < len(buffer):
        read = os.preadv(file.fileno(), [buffer[done:]], start + done)
        if not read:
            raise OSError(f"{file.name} became shorter while it was read")
        done += read


def _write(file: FileIO, buffer: memoryview) -> None:
    """Write all of a buffer: an unbuffered file may take a part at a time."""
    while buffer:
        buffer = buffer[file.write(buffer) :]
