"""How a recipe's batches are split: into processes, updates, and passes of a model."""

from __future__ import annotations

from dataclasses import dataclass

from sparseopd.errors import RecipeError
from sparseopd.settings.objective import GIVEN, Kind, Rollout
from sparseopd.settings.training import Train


@dataclass(frozen=True)
class BatchShape:
    """How the completions of one process are split."""

    micro: int
    """Completions of one forward and backward."""
    accumulation: int
    """Forward and backward passes of one update."""
    updates: int
    """Updates of one batch of rollouts."""
    samples: int
    """Completions of each prompt."""

    @property
    def rollouts(self) -> int:
        """Completions of one batch of rollouts."""
        return self.micro * self.accumulation * self.updates


def batch_shape(kind: Kind, train: Train, rollout: Rollout, processes: int = 1) -> BatchShape:
    """Split batches over processes. Raises `RecipeError` if they do not fit."""
    samples, updates = (1, 1) if kind in GIVEN else (rollout.samples, rollout.updates)
    share, rest = divmod(train.batch_size, processes)
    if rest:
        raise RecipeError(
            f"train.batch_size {train.batch_size} cannot be shared by {processes} processes: make it a "
            f"multiple of {processes}"
        )
    micro = train.micro_batch_size or share * samples
    accumulation, rest = divmod(share * samples, micro)
    if rest or not accumulation:
        raise RecipeError(
            f"train.micro_batch_size {micro} does not divide the {share * samples} completions of an "
            f"update that each of {processes} processes has: lower it"
        )
    return BatchShape(micro, accumulation, updates, samples)
