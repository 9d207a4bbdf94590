"""The matrices and vectors that a checkpoint consists of, whichever way its file packs them.

A tensor of experts (e, m, n) is e matrices. A fused projection is cut into what it fuses: query, key
and value, or gate and up, where the config's sizes leave no doubt; else it stays one matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseopd.masks.layout import place
from sparseopd.masks.scope import block_of
from sparseopd.pairs.tensors import Tensors
from sparseopd.singular import as_matrices, is_matrix

_GATE_UP = ("gate_up_proj", "gate_and_up_proj")
_QKV = ("qkv_proj", "qkv", "Wqkv", "c_attn")
_INTERLEAVED = ("gpt_oss", "codegen", "gpt_bigcode", "gpt_neox", "bloom", "falcon")
"""Model types that fuse in turns, row by row or head by head, so that no slice holds one projection."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One matrix or vector of a checkpoint: a tensor, an expert of it, or a slice of a fused one."""

    name: str
    """The tensor's name, followed by [expert], [slice] or [expert, slice] where it is a part."""
    tensor: str
    layer: int | None
    module: str
    block: str
    shape: tuple[int, ...]
    """(m, n) of a matrix, or (n,) of anything else, flattened."""
    start: int
    stop: int
    """The coordinates of the tensor to read."""
    columns: tuple[int, int, int] | None = None
    """Of what is read, as rows of a width: the width, the first column that belongs here, and the end."""
    planar: bool = False
    """Whether it is stored as a matrix; the paper's medians leave out convolutions."""

    @property
    def numel(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it has a spectrum."""
        return len(self.shape) == 2

    def read(self, tensors: Tensors) -> Tensor:
        """Return its values from a checkpoint: `shape`, in the stored dtype, not to be written to."""
        flat = tensors.flat(self.tensor, self.start, self.stop)
        if self.columns is None:
            return flat.reshape(self.shape)
        width, first, end = self.columns
        return flat.reshape(-1, width)[:, first:end]


def parts_of(tensors: Tensors, names: Iterable[str]) -> list[Part]:
    """List the parts of some tensors, in order; together they hold every coordinate once."""
    config = _config(tensors.folder)
    return [part for name in names for part in _parts(name, tensors.shape(name), config)]


def _parts(name: str, shape: torch.Size, config: dict[str, Any]) -> list[Part]:
    layer, module = place(name)
    known: dict[str, Any] = {"tensor": name, "layer": layer, "block": block_of(name)}
    if not is_matrix(shape):
        size = shape.numel()
        return [Part(name=name, module=module, shape=(size,), start=0, stop=size, **known)]
    count, rows, columns = as_matrices(shape)
    planar = len(shape) == 2 or count > 1
    cuts = _cuts(module, rows, columns, config)
    found = []
    for expert in range(count):
        start, label = expert * rows * columns, [str(expert)] if count > 1 else []
        for cut in cuts:
            found.append(
                Part(
                    name=name
                    + (f"[{', '.join([*label, *cut.label])}]" if label or cut.label else ""),
                    module=_module(module, cut),
                    shape=cut.shape(rows, columns),
                    start=start + (cut.first * columns if cut.axis == 0 else 0),
                    stop=start + (cut.end if cut.axis == 0 else rows) * columns,
                    columns=(columns, cut.first, cut.end) if cut.axis == 1 else None,
                    planar=planar,
                    **known,
                )
            )
    return found


@dataclass(frozen=True)
class _Cut:
    """A slice first…end along an axis (0 rows, 1 columns), and what it holds."""

    axis: int
    first: int
    end: int
    holds: str = ""

    @property
    def label(self) -> list[str]:
        return [self.holds] if self.holds else []

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        size = self.end - self.first
        return (size, columns) if self.axis == 0 else (rows, size)


def _cuts(module: str, rows: int, columns: int, config: dict[str, Any]) -> list[_Cut]:
    """How a fused matrix is cut; the whole of it where it is none, or cannot be told apart."""
    kind = module.removeprefix("vision.")
    found: list[_Cut] = []
    if config.get("model_type") in _INTERLEAVED:
        found = []
    elif kind in _GATE_UP:
        found = _gate_and_up(rows, columns, config)
    elif kind in _QKV:
        found = _query_key_value(rows, columns, {} if kind != module else config)
    return found or [_Cut(0, 0, rows)]


def _gate_and_up(rows: int, columns: int, config: dict[str, Any]) -> list[_Cut]:
    inner = _sizes(config, "intermediate_size", "moe_intermediate_size")
    axes = [axis for axis, size in enumerate((rows, columns)) if size / 2 in inner]
    if len(axes) != 1:
        return []
    half = (rows, columns)[axes[0]] // 2
    return _consecutive(axes[0], {"gate": half, "up": half})


def _query_key_value(rows: int, columns: int, config: dict[str, Any]) -> list[_Cut]:
    heads, groups, each, hidden = (
        next(iter(_sizes(config, name)), 0)
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")
    )
    groups, each = groups or heads, each or hidden // max(1, heads)
    if heads and rows == (heads + 2 * groups) * each:
        return _consecutive(0, {"q": heads * each, "k": groups * each, "v": groups * each})
    if rows == 3 * columns:
        return _consecutive(0, dict.fromkeys("qkv", columns))
    if columns == 3 * rows:  # GPT-2 stores its weights transposed
        return _consecutive(1, dict.fromkeys("qkv", rows))
    return []


def _sizes(config: dict[str, Any], *names: str) -> list[int]:
    """The positive integers that a config has under some names."""
    values = [config.get(name) for name in names]
    return [value for value in values if isinstance(value, int) and value > 0]


def _consecutive(axis: int, sizes: dict[str, int]) -> list[_Cut]:
    cuts, first = [], 0
    for holds, size in sizes.items():
        cuts.append(_Cut(axis, first, first + size, holds))
        first += size
    return cuts


def _module(module: str, cut: _Cut) -> str:
    """A cut's module: that of the separate projection it stands for."""
    if not cut.holds:
        return module
    prefix = "vision." if module.startswith("vision.") else ""
    return f"{prefix}{cut.holds}_proj"


def _config(folder: Path | None) -> dict[str, Any]:
    """The text model's part of a folder's config; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    text = config.get("text_config", config) if isinstance(config, dict) else {}
    found = text if isinstance(text, dict) else {}
    return {key: value for key, value in found.items() if isinstance(value, (int, str))}
