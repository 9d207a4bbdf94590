"""Norms of the gathered gradients, in one process or over shards, and what a non-finite one says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparseopd.errors import TrainingError
from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.shards import summed_over_shards


def masked_norm(compacts: Sequence[CompactParameter], *, sharded: bool) -> Tensor:
    """Return the norm over the whole k-vector, a scalar; with shards every process must call it."""
    # A block that several processes hold counts once.
    grads = [c.values.grad for c in compacts if c.part.first_copy and c.values.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    return summed_over_shards(norm.square()).sqrt() if sharded else norm


def full_norm(
    compacts: Sequence[CompactParameter], masked: Tensor | None, *, sharded: bool
) -> Tensor | None:
    """Return the norm over all coordinates of the masked parameters, if gathering measured it.

    Args: `masked`, the norm over the k-vector, free of any loss scale.
    """
    norms = [c.norms for c in compacts if c.norms is not None and c.part.first_copy]
    if not norms or masked is None:
        return None
    sums = torch.stack(norms).square().sum(0)
    full, part = summed_over_shards(sums) if sharded else sums
    # Through the ratio, so that a loss scale (GradScaler), which is still in both, drops out.
    return masked * (full / part).sqrt() if part else full.sqrt()


def require_finite(norm: Tensor, compacts: Sequence[CompactParameter]) -> None:
    """Raise `TrainingError` naming the parameter if the norm of the gradients is not finite."""
    if bool(norm.isfinite()):
        return
    for compact in compacts:
        grad = compact.values.grad
        if grad is not None and not grad.isfinite().all():
            raise TrainingError(
                f"the gradient of {compact.name} is not finite: no weight was changed; lower the "
                "learning rate, or look at the batch"
            )
    raise TrainingError(
        "the gradient is not finite in another process, or too large for its norm to be: no weight was "
        "changed; lower the learning rate, or look at the batch"
    )
