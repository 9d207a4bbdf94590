"""`analyze`: from two checkpoints on disk to every figure of the update between them, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sparseopd.analysis.aggregate import ordered
from sparseopd.analysis.assemble import assemble
from sparseopd.analysis.measure import Measured, Sides, measure
from sparseopd.analysis.parts import Part
from sparseopd.analysis.request import (
    check_device,
    check_finite,
    check_master,
    plan,
)
from sparseopd.analysis.result import Analysis
from sparseopd.analysis.settings import AnalysisSettings
from sparseopd.analysis.sums import Sums, forget
from sparseopd.artifacts import Progress
from sparseopd.masks.stream import for_each
from sparseopd.pairs.tensors import Source, open_tensors

ALONE = 1 << 22
"""Parts of more coordinates are measured one at a time, on all cores: memory must hold but one."""
KEEP_EVERY = 10.0
"""Seconds between two writings of what is finished."""


def analyze(
    base: Source,
    tuned: Source,
    *,
    master: Source | None = None,
    settings: AnalysisSettings | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Measure the update from `base` to `tuned`, reading both part by part.

    Args:
        base: checkpoint folder, hub id, `bundled:…`, or a model in memory.
        tuned: its sibling after training.
        master: the tuned weights before rounding, in float32; the figures then come in both. Where
            `tuned` itself is stored wider than it is compared, it is its own master.
        settings: dtype, draws of the nulls, seed, device, scope.
        folder: where finished parts are kept, so that an interrupted analysis goes on; it must exist.
            Models in memory are not recognised again, so nothing of theirs is kept.
        progress: called with the bytes of parts finished.

    Raises `AnalysisError` where the checkpoints are no siblings, or a weight is not finite.
    """
    started, settings = time.monotonic(), settings or AnalysisSettings()
    check_device(settings.device)
    sides = Sides(
        open_tensors(base), open_tensors(tuned), None if master is None else open_tensors(master)
    )
    planned = plan(sides, settings)
    parts, settings, request = planned.parts, planned.settings, planned.request
    if sides.base.folder is None or sides.tuned.folder is None:
        folder = None
    sums = Sums() if folder is None else Sums.load(folder, request)
    check_finite(sides, planned.names, settings, progress)
    check_master(sides, planned.names, settings)
    done = {row["name"] for row in sums.rows}
    report = _Report(progress, parts, sides, done)
    left = [part for part in _by_size(parts) if part.name not in done]
    with _kept(sums, folder, request) as keep:
        for part, measured in _measured(left, sides, settings):
            sums.add(measured)
            report.add(part)
            keep()
    sums.rows = ordered(sums.rows, [part.name for part in parts])
    found = assemble(sides, planned, sums, time.monotonic() - started)
    if folder is not None:
        forget(folder)
    return found


@contextmanager
def _kept(sums: Sums, folder: Path | None, request: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Yield what keeps the sums every few seconds; keep them too where the work is cut off."""
    last = time.monotonic()

    def keep() -> None:
        nonlocal last
        if folder is not None and time.monotonic() - last > KEEP_EVERY:
            sums.save(folder, request)
            last = time.monotonic()

    try:
        yield keep
    except BaseException:
        if folder is not None and sums.rows:
            sums.save(folder, request)
        raise


class _Report:
    """Tells how many bytes of both sides are done."""

    def __init__(
        self, progress: Progress | None, parts: Sequence[Part], sides: Sides, done: set[str]
    ) -> None:
        self._progress, self._sides = progress, sides
        self._total = sum(self._bytes(part) for part in parts)
        self._done = sum(self._bytes(part) for part in parts if part.name in done)

    def add(self, part: Part) -> None:
        self._done += self._bytes(part)
        if self._progress is not None:
            self._progress("analysing", self._done, self._total, "bytes", part.name)

    def _bytes(self, part: Part) -> int:
        read = (self._sides.base, self._sides.tuned)
        return part.numel * sum(tensors.dtype(part.tensor).itemsize for tensors in read)


def _by_size(parts: Sequence[Part]) -> list[Part]:
    """The largest first: cores then end together. Names decide among equals."""
    return sorted(parts, key=lambda part: (-part.numel, part.name))


def _measured(
    parts: Sequence[Part], sides: Sides, settings: AnalysisSettings
) -> Iterator[tuple[Part, Measured]]:
    def work(part: Part) -> Measured:
        with torch.inference_mode():
            return measure(part, sides, settings)

    large = [part for part in parts if part.numel > ALONE]
    small = for_each(parts[len(large) :], work, ahead=1)  # what is ahead is lost by an interrupt
    return chain(((part, work(part)) for part in large), small)
