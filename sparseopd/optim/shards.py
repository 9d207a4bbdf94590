"""Which part of a weight this process holds: all of it, or its FSDP2 shard (a `DTensor`).

A mask speaks of coordinates in the whole tensor. Each process cuts the mask as its weight is cut, and
remembers where its coordinates stand in the whole k-vector, so that optimizer state can be saved whole
and read by any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from sparseopd.errors import OptimizerError


@dataclass(frozen=True)
class LocalPart:
    """The block of a weight that this process holds."""

    shape: torch.Size
    """Of the whole weight."""
    region: tuple[slice, ...]
    """The block, a slice for every dimension."""
    first_copy: bool = True
    """Whether this process is the first of those that hold this very block (HSDP): sums count that one."""

    @property
    def whole(self) -> bool:
        """Whether the block is the weight."""
        return all(
            part.start == 0 and part.stop == size
            for part, size in zip(self.region, self.shape, strict=True)
        )

    @property
    def by_rows(self) -> bool:
        """Whether the block is contiguous in the flattened weight: cut along the first dimension."""
        rest = zip(self.region[1:], self.shape[1:], strict=True)
        return all(part.start == 0 and part.stop == size for part, size in rest)

    def of(self, whole: Tensor) -> Tensor:
        """Cut the block out of a tensor of the whole weight's shape."""
        return whole[self.region]

    def flat_positions(self, local: Tensor) -> Tensor:
        """Turn flat positions in the block, int64 (m,), into those in the whole weight."""
        if self.whole:
            return local
        if self.by_rows:
            return local + self.region[0].start * math.prod(self.shape[1:])
        size = [part.stop - part.start for part in self.region]
        place = torch.zeros_like(local)
        for index, part, extent in zip(
            torch.unravel_index(local, size), self.region, self.shape, strict=True
        ):
            place = place * extent + index + part.start
        return place


def local_part(name: str, weight: Tensor) -> LocalPart:
    """Return the block of `weight` that this process holds.

    Raises `OptimizerError` for a `DTensor` that is neither cut nor copied.
    """
    if not isinstance(weight, DTensor):
        return LocalPart(weight.shape, tuple(slice(0, size) for size in weight.shape))
    plain = (Shard, Replicate)
    if any(type(placement) not in plain for placement in weight.placements):
        raise OptimizerError(
            f"the weight {name} is placed as {weight.placements}: only FSDP2's Shard and Replicate are "
            "supported; use fully_shard without further parallelism on this weight"
        )
    shape, start = _shape_and_offset(weight)
    coordinate = weight.device_mesh.get_coordinate() or []
    held = [axis for axis, placement in enumerate(weight.placements) if placement == Replicate()]
    return LocalPart(
        weight.shape,
        tuple(slice(begin, begin + size) for begin, size in zip(start, shape, strict=True)),
        first_copy=all(coordinate[axis] == 0 for axis in held),
    )


def local_tensor(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return the block of a weight or gradient that lies in this process, sharing its memory.

    A gradient that is placed otherwise than its weight `like` is brought there first.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    if isinstance(like, DTensor) and tensor.placements != like.placements:
        tensor = tensor.redistribute(like.device_mesh, like.placements)
    return tensor.to_local()


Summed = Callable[[Tensor], Tensor]
"""Adds a vector of sums over the processes that hold different shards; identity without shards."""


def summed_over_shards(sums: Tensor) -> Tensor:
    """Add up a small vector over all processes; it returns on the device it came from."""
    device = torch.device("cpu")
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    everywhere = sums.to(device, copy=True)
    dist.all_reduce(everywhere)
    return everywhere.to(sums.device)


def world_size() -> int:
    """Return the number of processes training together, 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _shape_and_offset(weight: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the local block's shape and where it begins.

    The one place that calls `compute_local_shape_and_global_offset`, read from torch 2.13, which its
    checkpointing uses as well; a shard past the last row begins at the end.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        weight.shape, weight.device_mesh, weight.placements
    )
    if tuple(shape) != tuple(weight.to_local().shape):
        raise OptimizerError(
            f"torch {torch.__version__} reports a shard of {tuple(shape)} and holds "
            f"{tuple(weight.to_local().shape)}: please report this"
        )
    return tuple(shape), tuple(
        min(begin, extent) for begin, extent in zip(start, weight.shape, strict=True)
    )
