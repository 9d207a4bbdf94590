"""PEFT's sparse formats, whose layers must all hold a number of values by one rule: written and padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import peft_folder
from sparseopd.adapter_files.convert.differences import Difference, Merged, difference
from sparseopd.adapter_files.convert.layers import Layer, Plan
from sparseopd.adapter_files.convert.result import Outcome, padding_in
from sparseopd.adapter_files.convert.steps import layers_in
from sparseopd.artifacts import Progress


@dataclass(frozen=True)
class Padded:
    """One of the formats, for one adapter."""

    title: str
    parts: tuple[str, str]
    """What the values and the places of a layer are called."""
    settings: dict[str, Any]
    """What adapter_config.json says of this kind."""
    rule: str
    """What all layers share, that decides how many values each has."""
    room: Callable[[Layer], int]
    """That number."""
    places: Callable[[Layer, Tensor], Tensor]
    """Returns a layer's places as the format has them, given flat positions, int64 (n,)."""
    added: Callable[[Difference], Tensor]
    """What PEFT makes of values when it adds their differences: (k,) in the base's dtype."""


def write_padded(
    padded: Padded, adapter: SparseAdapter, plan: Plan, folder: Path, progress: Progress | None
) -> Outcome:
    """Write the differences of a plan's layers, and count what PEFT's sum will lose of them."""
    merged = Merged(padded.title, padded.added)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for layer in layers_in(plan, progress):
            found = difference(adapter, plan.base, layer.tensor)
            merged.count(found)
            positions, values = found.padded(padded.room(layer))
            yield f"{layer.module}.{padded.parts[0]}", values
            yield f"{layer.module}.{padded.parts[1]}", padded.places(layer, positions).int()

    peft_folder.save(folder, adapter, plan, padded.settings, tensors())
    padding = sum(padded.room(layer) for layer in plan.layers) - plan.k
    losses = [*plan.losses, *merged.losses(), *padding_in(padded.title, padding, padded.rule)]
    return Outcome(k=plan.k, losses=losses, padding=padding)
