"""Small checkpoints, in memory and on disk, and the shortest way to their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparseopd.analysis import Analysis, AnalysisSettings, analyze
from sparseopd.analysis.values import Values
from tests.masks.held import Held

Tensors = dict[str, Tensor]


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Standard normal numbers times `scale`: float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """Random orthonormal columns: float64."""
    return torch.linalg.qr(noise(rows, columns, seed=seed).double())[0]


def values_of(change: Tensor) -> Values:
    """An update of zeros, exactly as given."""
    before = torch.zeros_like(change)
    return Values(before, change, change, torch.float32)


def write(
    folder: Path, tensors: Tensors, config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """Write a checkpoint of one file, or of several with an index; tensors go to shards in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "made_up"}))
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    for number, file in enumerate(files):
        held = {name: tensors[name] for name in names[number::shards]}
        save_file(held, folder / file, {"format": "pt"})
    index = {name: files[place % shards] for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def analyzed(base: Tensors, tuned: Tensors, master: Tensors | None = None, **settings) -> Analysis:
    """Analyse tensors held in memory."""
    return analyze(
        Held(base, "the base"),
        Held(tuned, "the tuned one"),
        master=None if master is None else Held(master, "the master"),
        settings=AnalysisSettings(**settings),
    )


def observed(before: Tensor, after: Tensor, **settings) -> dict[str, Any]:
    """The figures of one tensor, without nulls."""
    found = analyzed({"w": before}, {"w": after}, **{"draws": 0, **settings})
    return found.tensors[0]["observed"]


def matrices(count: int) -> list[str]:
    """Names of the attention projections of a model, four a layer."""
    modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    return [
        f"model.layers.{place // 4}.self_attn.{modules[place % 4]}.weight" for place in range(count)
    ]
