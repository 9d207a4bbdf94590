"""Started twice by test_peft_processes.py: trains an adapter under DDP, and leaves what it saw on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started as a bare file

from sparseopd.overlays import apply, remove

WITHOUT_PEFT = "peft" not in sys.modules and callable(apply) and callable(remove)
"""Whether everything but the tuner can be had without importing PEFT."""

from tests.adapters.adapted import (  # noqa: E402 (what is imported by then is looked at above)
    Net,
    adapt,
    differing,
    mask_of,
    values_of,
    weights_of,
)

STEPS, BATCH = 3, 4


def batches(rank: int, world: int) -> list[Tensor]:
    """This process' part of two batches a step, (BATCH / world, 8)."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 11, (BATCH, 8), generator=generator) for _ in range(2 * STEPS)]
    return [tokens[rank::world] for tokens in drawn]


def train(
    model: nn.Module, data: list[Tensor], hold: Callable[[int], Any] = lambda part: nullcontext()
) -> None:
    """Two backward passes a step; `hold(part)` wraps each."""
    # Not Adam, which makes a whole step of a gradient that is nothing but rounding.
    held = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(held, lr=0.1, momentum=0.9)
    for step in range(STEPS):
        for part, tokens in enumerate(data[2 * step : 2 * step + 2]):
            with hold(part):
                said = model(tokens).flatten(0, 1)
                (nn.functional.cross_entropy(said, tokens.flatten()) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()


def main(folder: Path, rank: int, world: int) -> None:
    """Train under DDP and write the weights and what was sent."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    base = Net()
    start = weights_of(base)
    model = adapt(base, mask_of(base))
    wrapped = DistributedDataParallel(model)
    sent = 0

    def count(_, bucket):  # DDP refuses annotations that are strings
        nonlocal sent
        sent += bucket.buffer().numel()
        return allreduce_hook(dist.group.WORLD, bucket)

    wrapped.register_comm_hook(None, count)
    hold = lambda part: wrapped.no_sync() if part == 0 else nullcontext()  # noqa: E731
    train(wrapped, batches(rank, world), hold)
    found = {"weights": weights_of(model), "values": dict(values_of(model)), "sent": sent}
    found["without_peft"] = WITHOUT_PEFT
    found["restored"] = differing(weights_of(model.unload()), start) == []
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
