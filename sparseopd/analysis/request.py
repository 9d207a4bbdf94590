"""What an analysis is asked for, checked before the work, and told apart from other requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import sparseopd
from sparseopd.analysis.measure import Sides, dtype_of
from sparseopd.analysis.parts import Part, parts_of
from sparseopd.analysis.settings import AnalysisSettings
from sparseopd.artifacts import Progress
from sparseopd.errors import AnalysisError
from sparseopd.masks.scope import in_scope
from sparseopd.masks.stream import for_each
from sparseopd.pairs.tensors import Tensors, pieces


def check_siblings(sides: Sides, names: Sequence[str]) -> None:
    """Raise `AnalysisError` unless all sides hold tensors of these names, in the same shapes."""
    if not any(sides.base.shape(name).numel() for name in names):
        raise AnalysisError(f"{sides.base.label} has no weights to look at: all are empty")
    for other in (sides.tuned, sides.master):
        if other is None:
            continue
        theirs = set(other.keys())
        for name in names:
            if name not in theirs:
                raise AnalysisError(
                    f"{other.label} lacks {name}, which {sides.base.label} has: not a sibling"
                )
            if other.shape(name) != sides.base.shape(name):
                raise AnalysisError(
                    f"{name} is {tuple(sides.base.shape(name))} in {sides.base.label} and "
                    f"{tuple(other.shape(name))} in {other.label}: not a sibling"
                )


def check_finite(
    sides: Sides, names: Sequence[str], settings: AnalysisSettings, progress: Progress | None = None
) -> None:
    """Raise `AnalysisError` naming a tensor with a NaN or an infinity, as stored or once rounded."""
    dtypes = {
        name: dtype_of(sides.base.dtype(name), sides.tuned.dtype(name), settings) for name in names
    }
    read = [tensors for tensors in (sides.base, sides.tuned, sides.master) if tensors is not None]
    spans = [
        (tensors, name, start, stop)
        for tensors in read
        for name in names
        for start, stop in pieces(tensors.shape(name).numel())
    ]
    done, total = 0, sum(stop - start for _, _, start, stop in spans)

    def finite(span: tuple[Tensors, str, int, int]) -> bool:
        tensors, name, start, stop = span
        return bool(torch.isfinite(tensors.flat(name, start, stop).to(dtypes[name])).all())

    for (tensors, name, start, stop), good in for_each(spans, finite):
        if not good:
            raise AnalysisError(
                f"{name} of {tensors.label} is not finite in {str(dtypes[name])[6:]}: leave it out with "
                "--exclude, compare in another --dtype, or mend the checkpoint"
            )
        done += stop - start
        if progress is not None:
            progress("looking for NaN", done, total)


def check_master(sides: Sides, names: Sequence[str], settings: AnalysisSettings) -> None:
    """Raise `AnalysisError` unless the master is wider than what is compared, and rounds to it.

    Stochastic rounding is allowed for: each weight may lie a unit in the last place away.
    """
    master = sides.master
    if master is None:
        return
    for name in names:
        dtype = dtype_of(sides.base.dtype(name), sides.tuned.dtype(name), settings)
        if master.dtype(name).itemsize <= dtype.itemsize:
            raise AnalysisError(
                f"{name} of {master.label} is {str(master.dtype(name))[6:]}, no wider than the "
                f"{str(dtype)[6:]} that is compared: give the weights before rounding"
            )
        for start, stop in pieces(sides.base.shape(name).numel()):
            exact = master.flat(name, start, stop).float()
            rounded = sides.tuned.flat(name, start, stop).to(dtype).float()
            step = torch.finfo(min(dtype, sides.tuned.dtype(name), key=lambda one: one.itemsize))
            close = step.eps * exact.abs() + step.tiny
            if bool(((rounded - exact).abs() > close).any()):
                raise AnalysisError(
                    f"{name} of {master.label} does not round to that of {sides.tuned.label}: give "
                    "the same weights before rounding"
                )


def check_device(device: str) -> None:
    """Raise `AnalysisError` where torch cannot use a device."""
    try:
        float(torch.zeros(1, dtype=torch.float64, device=device))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise AnalysisError(
            f"the device {device} cannot be used here ({str(error).splitlines()[0]}): give cpu, or "
            "leave --device out"
        ) from error


@dataclass(frozen=True)
class Plan:
    """What an analysis will do."""

    names: list[str]
    """Tensors in scope."""
    parts: list[Part]
    settings: AnalysisSettings
    """With the draws decided."""
    request: dict[str, Any]
    """JSON: what results must have been asked for to be used again, the files as they are now."""


def plan(sides: Sides, settings: AnalysisSettings) -> Plan:
    """Plan an analysis. Raises `AnalysisError` where the sides are no siblings."""
    names = in_scope(sides.base.keys(), settings.include, settings.exclude)
    check_siblings(sides, names)
    parts = parts_of(sides.base, [name for name in names if sides.base.shape(name).numel()])
    resolved = settings.resolved(sum(part.is_matrix for part in parts))
    return Plan(names, parts, resolved, json.loads(json.dumps(_request(sides, resolved))))


def _request(sides: Sides, settings: AnalysisSettings) -> dict[str, Any]:
    request: dict[str, Any] = {
        "version": sparseopd.__version__,
        "settings": plain(asdict(settings)),
    }
    for side in ("base", "tuned", "master"):
        tensors = getattr(sides, side)
        request[side] = None if tensors is None else tensors.label
        request[f"{side} files"] = [] if tensors is None else _files(tensors)
    return request


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }


def _files(tensors: Tensors) -> list[list[Any]]:
    """Names, sizes and times of a folder's weights: whether it is still what it was."""
    if tensors.folder is None:
        return []
    files = sorted(tensors.folder.glob("*.safetensors"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
