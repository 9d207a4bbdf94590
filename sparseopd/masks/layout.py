"""Where a mask lies: its coordinates by layer and module."""

from __future__ import annotations

import re
from typing import Any

from sparseopd.masks.mask import Mask

_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
_VISION = re.compile(r"(?:^|\.)(?:vision_tower|vision_model|visual)\.")


def place(name: str) -> tuple[int | None, str]:
    """Return the layer (None outside any) and the module of a checkpoint tensor.

    `model.layers.3.self_attn.q_proj.weight` is (3, "q_proj"); tensors of a vision tower have their
    module prefixed by "vision.".
    """
    prefix = "vision." if _VISION.search(f".{name}") else ""
    found = _LAYER.search(name)
    parts = (found[2] if found else name).split(".")
    while len(parts) > 1 and parts[-1] in ("weight", "bias"):
        parts.pop()
    return (int(found[1]) if found else None), prefix + parts[-1]


def layout(mask: Mask) -> list[dict[str, Any]]:
    """Return rows of "layer", "module", "count", "numel": the mask summed by layer and module."""
    rows: dict[tuple[int | None, str], dict[str, Any]] = {}
    for name in mask.names:
        layer, module = place(name)
        row = rows.setdefault(
            (layer, module), {"layer": layer, "module": module, "count": 0, "numel": 0}
        )
        row["count"] += mask.count(name)
        row["numel"] += mask.numel(name)
    return list(rows.values())
