"""LT-SFT's `pytorch_diff.bin`: differences, and the tensors it trained whole. Imported, never written.

Read from cambridgeltl/composable-sft, src/sft/sft.py: a pickled dictionary of "diffs", each with "size",
"index_steps" (gaps between ascending column-major positions, the first from 0) and "values", and "abs",
dense tensors. Applying it is `tensor += sparse difference` and `tensor.copy_(value)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseopd.adapter_files.convert.changes import Additions, Change, places_moved
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.masks.mask import listing
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "LT-SFT"
FILE = "pytorch_diff.bin"
PARTS = {"size", "index_steps", "values"}
BROKEN = (
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
"""What torch raises, beside `UnpicklingError`, while it reads a damaged file."""


@dataclass(frozen=True)
class _Sparse:
    """One tensor's differences."""

    shape: tuple[int, ...]
    positions: np.ndarray
    """int64 (k,), row-major."""
    values: Tensor
    """(k,)"""

    def tensor(self) -> Tensor:
        """Return the differences as a sparse tensor of torch."""
        places = np.stack(np.unravel_index(self.positions, self.shape))
        return torch.sparse_coo_tensor(
            torch.from_numpy(places), self.values, self.shape, check_invariants=False
        ).coalesce()


class _Sft(Additions):
    """What the file does to its base; tensors trained whole that the base has not are lost."""

    def __init__(
        self, diffs: dict[str, _Sparse], whole: dict[str, Tensor], lost: list[str]
    ) -> None:
        super().__init__(sorted(diffs.keys() | whole.keys()), self._sum)
        self._diffs, self._whole, self._lost = diffs, whole, lost

    def losses(self) -> list[str]:
        """Add what has no place to the differences that change nothing."""
        return [*self._lost, *super().losses()]

    def _sum(self, name: str, before: Tensor) -> tuple[Tensor, int]:
        after, listed = before.clone(), 0
        if name in self._diffs:
            after += self._diffs[name].tensor()
            one = self._diffs[name]
            listed += places_moved(torch.from_numpy(one.positions), one.values)
        if name in self._whole:
            after.copy_(self._whole[name])
            listed = before.numel()
        return after, listed


def read(path: Path, source: Source, base: Tensors) -> Change:
    """Open a file or its folder. Raises `AdapterError` for a pickle that could run code, or does not fit."""
    path = path / FILE if path.is_dir() else path
    content = _load(path)
    _check_names(path, content)
    diffs = {name: _decoded(path, name, one) for name, one in content.get("diffs", {}).items()}
    whole = {name: _dense(path, name, one) for name, one in content.get("abs", {}).items()}
    names = base.keys()
    found = {name: _named(name, names) for name in [*diffs, *whole]}
    _check(path, base, found, diffs)
    absent = [name for name in whole if found[name] is None]
    for name, one in whole.items():
        there = found[name]
        if there is not None and base.shape(there) != one.shape:
            raise _misfit(path, base, there, tuple(one.shape))
    return _Sft(
        {there: one for name, one in diffs.items() if (there := found[name])},
        {there: one for name, one in whole.items() if (there := found[name])},
        _left_out(base, whole, absent),
    )


def _load(path: Path) -> Mapping[str, Any]:
    """Read the pickle, of which nothing but tensors, numbers and containers is let through."""
    if not path.is_file():
        raise AdapterFileError(f"there is no file {path}: give LT-SFT's {FILE} or its folder")
    # The first gap is a numpy number: made by this function, from a dtype, which is of this class.
    # The file names the function by the module it lay in, which numpy 2 renamed.
    scalar: Any = np.int64(0).__reduce__()[0]
    known: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    known += [np.dtype, type(np.dtype("int64"))]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, known) from error
    except OSError as error:
        raise AdapterFileError(f"cannot read {path}: {error.strerror or error}") from error
    except BROKEN as error:
        raise AdapterFileError(f"{path} is damaged or cut short: fetch it again") from error
    kinds = ("diffs", "abs")
    if (
        not isinstance(content, dict)
        or not content
        or not all(key in kinds and isinstance(content[key], dict) for key in content)
    ):
        shown = (
            listing([str(key) for key in content]) if isinstance(content, dict) else type(content)
        )
        raise AdapterError(
            f"{path} holds {shown or 'nothing'} and not 'diffs' and 'abs': save it again with LT-SFT's SFT.save"
        )
    return content


def _refused(path: Path, known: list[Any]) -> AdapterFileError:
    """Say what a pickle asked for. Torch's own reason is not quoted: it advises to read it all the same."""
    try:
        with torch.serialization.safe_globals(known):
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (pickle.UnpicklingError, OSError, *BROKEN):
        wanted = []
    if wanted:
        return AdapterFileError(
            f"{path} asks for {listing(sorted(wanted))}, which could run code when it is read, and is not "
            "read: save it again with tensors and numbers alone"
        )
    return AdapterFileError(
        f"{path} is no file that torch.save wrote of tensors and numbers alone, or is damaged: fetch it "
        "again, or save it again"
    )


def _check_names(path: Path, content: Mapping[str, Any]) -> None:
    """Raise `AdapterFileError` for tensors whose names are no text."""
    for name in [name for part in content.values() for name in part]:
        if not isinstance(name, str):
            raise AdapterFileError(
                f"{path} calls a tensor {name!r}, which is no text: save it again with LT-SFT's SFT.save"
            )


def _decoded(path: Path, name: str, encoded: Any) -> _Sparse:
    """Turn gaps between column-major positions into row-major ones."""
    if not isinstance(encoded, dict) or encoded.keys() != PARTS:
        raise AdapterFileError(f"{path} does not hold {name} as size, index_steps and values")
    try:
        shape = tuple(map(index, encoded["size"]))
        columns_first = np.cumsum([index(step) for step in encoded["index_steps"]], dtype=np.int64)
        places = np.unravel_index(columns_first, shape, order="F")
        positions = np.ravel_multi_index(places, shape).astype(np.int64)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise AdapterFileError(f"{path} is inconsistent in {name}: {error}") from error
    values = _dense(path, f"the values of {name}", encoded["values"])
    if values.dtype.itemsize < 2:
        raise AdapterFileError(
            f"{path} has differences of {values.dtype} for {name}, not of 16 bits or more"
        )
    if values.shape != positions.shape:
        raise AdapterFileError(
            f"{path} is inconsistent: {name} has {len(positions)} positions and other values"
        )
    return _Sparse(shape, positions, values)


def _dense(path: Path, name: str, value: Any) -> Tensor:
    """Return a tensor that holds real numbers. Raises `AdapterFileError` for anything else."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        raise AdapterFileError(f"{path} does not hold {name} as a dense tensor")
    if not value.is_floating_point():
        raise AdapterFileError(
            f"{path} holds {name} as {value.dtype}, which is no real floating-point number"
        )
    return value.detach()


def _named(name: str, names: list[str]) -> str | None:
    """Return the base's tensor of a name, which may have a prefix more or less: bert.encoder.…"""
    if name in names:
        return name
    longer = [one for one in names if one.endswith(f".{name}")]
    shorter = [one for one in names if name.endswith(f".{one}")]
    alike = longer or sorted(shorter, key=len)[-1:]
    return alike[0] if len(alike) == 1 else None


def _check(
    path: Path, base: Tensors, found: Mapping[str, str | None], diffs: Mapping[str, _Sparse]
) -> None:
    """Raise `AdapterMismatchError` unless the base has every tensor with differences, each for one name."""
    owners: dict[str, str] = {}
    for name, there in found.items():
        if there is not None and owners.setdefault(there, name) != name:
            raise AdapterFileError(
                f"{path} has {owners[there]} and {name}, which are both {there} of {base.label}: leave "
                "one of them out"
            )
    missing = [name for name in diffs if found[name] is None]
    if missing:
        raise AdapterMismatchError(
            f"{path} changes {listing(missing)}, which {base.label} has not: give the base it was trained on",
            dict.fromkeys(missing, "missing"),
        )
    for name, one in diffs.items():
        there = found[name]
        if there is not None and tuple(base.shape(there)) != one.shape:
            raise _misfit(path, base, there, one.shape)


def _misfit(path: Path, base: Tensors, name: str, shape: tuple[int, ...]) -> AdapterMismatchError:
    what = f"{tuple(base.shape(name))} instead of {shape}"
    return AdapterMismatchError(
        f"{path} does not belong to {base.label}: {name} is {what}; give the base it was trained on",
        {name: what},
    )


def _left_out(base: Tensors, whole: Mapping[str, Tensor], absent: list[str]) -> list[str]:
    if not absent:
        return []
    lost = sum(whole[name].numel() for name in absent)
    return [
        f"{len(absent)} tensors that were trained whole, with {lost:,} values, are left out, because "
        f"{base.label} has not: {listing(absent)}"
    ]
