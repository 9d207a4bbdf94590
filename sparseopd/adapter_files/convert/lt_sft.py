"""LT-SFT's `pytorch_diff.bin`: differences, and the tensors it trained whole. Imported, never written.

Read from cambridgeltl/composable-sft, src/sft/sft.py: a pickled dictionary of "diffs", each with "size",
"index_steps" (gaps between ascending column-major positions, the first from 0) and "values", and "abs",
dense tensors. Applying it is `tensor += sparse difference` and `tensor.copy_(value)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseopd.adapter_files.convert.changes import Additions, Change
from sparseopd.adapter_files.convert.result import listing
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "LT-SFT"
FILE = "pytorch_diff.bin"
PARTS = {"size", "index_steps", "values"}


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
            listed += len(self._diffs[name].values)
        if name in self._whole:
            after.copy_(self._whole[name])
            listed = before.numel()
        return after, listed


def read(path: Path, source: Source, base: Tensors) -> Change:
    """Open a file or its folder. Raises `AdapterError` for a pickle that could run code, or does not fit."""
    path = path / FILE if path.is_dir() else path
    content = _load(path)
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
    # The first gap is a numpy number: made by this function, from a dtype, which is of this class.
    # The file names the function by the module it lay in, which numpy 2 renamed.
    scalar: Any = np.int64(0).__reduce__()[0]
    known: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    known += [np.dtype, type(np.dtype("int64"))]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).split("WeightsUnpickler error: ")[-1].strip().split("\n")[0].strip()
        raise AdapterFileError(
            f"{path} is damaged, or a pickle of more than tensors and numbers, which could run code when it "
            f"is read, and is not read: {reason}"
        ) from error
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


def _decoded(path: Path, name: str, encoded: Any) -> _Sparse:
    """Turn gaps between column-major positions into row-major ones."""
    if not isinstance(encoded, dict) or encoded.keys() != PARTS:
        raise AdapterFileError(f"{path} does not hold {name} as size, index_steps and values")
    shape, values = tuple(map(int, encoded["size"])), encoded["values"]
    try:
        columns_first = np.cumsum(np.asarray(encoded["index_steps"], dtype=np.int64))
        places = np.unravel_index(columns_first, shape, order="F")
        positions = np.ravel_multi_index(places, shape).astype(np.int64)
    except (ValueError, TypeError) as error:
        raise AdapterFileError(f"{path} is inconsistent in {name}: {error}") from error
    if not isinstance(values, Tensor) or values.shape != positions.shape:
        raise AdapterFileError(
            f"{path} is inconsistent: {name} has {len(positions)} positions and other values"
        )
    return _Sparse(shape, positions, values)


def _dense(path: Path, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise AdapterFileError(f"{path} does not hold {name} as a dense tensor")
    return value


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
    """Raise `AdapterMismatchError` unless the base has every tensor with differences."""
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
