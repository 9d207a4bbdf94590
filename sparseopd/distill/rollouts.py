"""Split a batch of rollouts into the micro batches of its updates, each token with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from trl.trainer.utils import (
    shuffle_sequence_dict,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from sparseopd.distill.objectives.reduction import shares as rescaled
from sparseopd.distill.objectives.reduction import weights
from sparseopd.settings.batches import BatchShape
from sparseopd.settings.objective import Reduction

Batch = dict[str, Any]


def micro_batches(rollouts: Batch, shape: BatchShape) -> list[Batch]:
    """Shuffle the completions and split them into accumulation × updates micro batches, as TRL does."""
    shuffled: Any = shuffle_sequence_dict(split_pixel_values_by_grid(rollouts))  # pyright: ignore
    parts: list[Any] = split_tensor_dict(shuffled, shape.accumulation * shape.updates)
    return [unsplit_pixel_values_by_grid(part) for part in parts]


def weigh(
    batches: Sequence[Batch],
    shape: BatchShape,
    reduction: Reduction,
    shares: Float[Tensor, "t"] | None,
    accelerator: Accelerator,
) -> None:
    """Give every micro batch its tokens' "weights" (rows, tokens), and its update's "total" over all processes.

    The loss of an update is Σ weight · loss / total. With `shares`, each teacher's tokens weigh as much
    as its share in every update; the rows' "teacher" field says whose they are.
    """
    updates = [
        batches[first : first + shape.accumulation]
        for first in range(0, len(batches), shape.accumulation)
    ]
    for update in updates:
        masks = [batch["completion_mask"].bool() for batch in update]
        found = [weights(mask, reduction) for mask in masks]
        total = accelerator.reduce(torch.stack([part for _, part in found]).sum(), "sum")
        for batch, (weight, _) in zip(update, found, strict=True):
            batch["weights"], batch["total"] = weight, total
        if shares is not None:
            _share(update, shares, accelerator)


def _share(update: Sequence[Batch], wanted: Float[Tensor, "t"], accelerator: Accelerator) -> None:
    sums = torch.zeros_like(wanted)
    for batch in update:
        sums.index_add_(0, batch["teacher"], batch["weights"].sum(dim=1))
    everywhere: Any = accelerator.reduce(sums, "sum")
    for batch in update:
        batch["weights"] = rescaled(batch["weights"], batch["teacher"], wanted, everywhere)
