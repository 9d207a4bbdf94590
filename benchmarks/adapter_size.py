"""Bytes of adapter files a trained value: ours beside those that PEFT writes of its own two sparse tuners.

SHiRA and SUPERTUNING choose how many values they train in each layer by rules of their own, so each is
compared with an adapter of ours of exactly its coordinates, in the same layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from adapter_models import (
    QUICK,
    QWEN,
    fresh,
    linear_layers,
    matched_rank,
    save_sparse,
    shira,
    size_of,
    step_at_random,
    supertuning,
)
from torch import Tensor, nn

from sparseopd.adapter_files.extract import extract
from sparseopd.adapter_files.format import WEIGHTS
from sparseopd.masks import Mask
from sparseopd.pairs.tensors import open_tensors

DENSITIES = (0.01, 0.1, 0.2)
CLUSTERED = 1.0
"""Standard deviation of the logarithms of row and column scales: masks gather in some of them."""


def size(folder: Path, quick: bool) -> dict[str, Any]:
    """Measure every pair of files, in bf16 and without float32 masters."""
    shape = next(iter(QUICK.values())) if quick else {**QWEN, "num_hidden_layers": 2}
    model = fresh(shape, torch.bfloat16)
    model.save_pretrained(folder / "base")  # pyright: ignore[reportCallIssue]
    rows, ours = [], []
    for density in DENSITIES:
        for peer in ("SUPERTUNING", "SHiRA"):
            mask, theirs = _saved_by_peft(peer, shape, density, folder)
            rows.append({"peer": peer, "density": density, **_ours(model, mask, folder), **theirs})
        clustered = _clustered(model, density)
        ours.append({"density": density, **_ours(model, clustered, folder)})
    return {"model": {**size_of(model), "layers": shape}, "beside_peers": rows, "clustered": ours}


def _saved_by_peft(
    peer: str, shape: dict[str, Any], density: float, folder: Path
) -> tuple[Mask, dict[str, Any]]:
    """Save one of PEFT's adapters; return its coordinates and its bytes, then with values in bf16."""
    model = fresh(shape, torch.bfloat16)
    config = supertuning(density) if peer == "SUPERTUNING" else shira(matched_rank(model, density))
    names, shapes = open_tensors(model).keys(), dict(_shapes(model))
    wrapped: Any = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    step_at_random(wrapped)
    chosen = {name: torch.zeros(shapes[name], dtype=torch.bool) for name in names}
    for name, index in _indices(wrapped):
        chosen[f"{name}.weight"].view(-1)[index] = True
    wide = _save(wrapped, folder / "peer-fp32")
    for weight in wrapped.parameters():
        weight.data = weight.data.bfloat16()
    narrow = _save(wrapped, folder / "peer-bf16")
    return Mask.from_tensors(chosen), {"theirs": wide, "theirs_in_bf16": narrow}


def _shapes(model: nn.Module) -> Iterator[tuple[str, torch.Size]]:
    tensors = open_tensors(model)
    for name in tensors.keys():
        yield name, tensors.shape(name)


def _indices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the flat positions that SUPERTUNING or SHiRA trains in each layer."""
    for name, module in linear_layers(model):
        plain = name.removeprefix("base_model.model.")
        if hasattr(module, "supertuning_indices"):
            yield plain, module.supertuning_indices["default"].long()  # pyright: ignore
        elif hasattr(module, "shira_indices"):
            rows, columns = module.shira_indices["default"].long()  # pyright: ignore
            yield plain, rows * module.in_features + columns  # pyright: ignore


def _ours(model: nn.Module, mask: Mask, folder: Path) -> dict[str, Any]:
    """Write an adapter of those coordinates in both ways, through PEFT and from two checkpoints."""
    through_peft = _bytes(save_sparse(model, mask, folder / "ours"))
    _save_tuned(model, mask, folder / "tuned")
    extracted = extract(folder / "base", folder / "tuned", folder / "extracted", mask=mask)
    for path in (folder / "extracted").iterdir():
        path.unlink()
    return {
        "k": mask.count(),
        "ours": through_peft,
        "extracted": extracted.bytes,
        "limit": _limit(mask),
    }


def _save_tuned(model: nn.Module, mask: Mask, folder: Path) -> None:
    """Save the checkpoint with new values at the mask's coordinates; the model keeps its own."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in mask and mask.count(name):
                weight[mask[name]] += 1e-3 * torch.randn(mask.count(name)).to(weight)
        model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        for name, weight in model.named_parameters():
            weight.copy_(before[name])


def _clustered(model: nn.Module, density: float) -> Mask:
    """Choose the largest of random scores whose rows and columns differ in scale, layer by layer."""
    generator = torch.Generator().manual_seed(0)
    layers = {f"{name}.weight" for name, _ in linear_layers(model)}
    chosen = {}
    for name, shape in _shapes(model):
        chosen[name] = torch.zeros(shape, dtype=torch.bool)
        if name in layers:
            rows, columns = (torch.randn(n, generator=generator) for n in shape)
            scale = (CLUSTERED * (rows[:, None] + columns)).exp()
            scores = torch.randn(shape, generator=generator).abs() * scale
            k = int(density * scores.numel())
            chosen[name].view(-1)[scores.view(-1).topk(k, sorted=False).indices] = True
    return Mask.from_tensors(chosen)


def _limit(mask: Mask) -> float:
    """Return the bytes of k values of 16 bits and the entropy of each layer's number of coordinates."""
    total = 16.0 * mask.count()
    for name in mask.names:
        share = mask.density(name)
        if 0 < share < 1:
            entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
            total += entropy * mask.numel(name)
    return total / 8


def _save(model: Any, folder: Path) -> int:
    model.save_pretrained(str(folder))
    return _bytes(folder)


def _bytes(folder: Path) -> int:
    return (folder / WEIGHTS).stat().st_size
