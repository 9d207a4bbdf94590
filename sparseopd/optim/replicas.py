"""Data-parallel processes that each hold the whole model: gradients are averaged as k-vectors.

DDP would average every dense gradient, and keep memory for all of them. Instead the masked parameters
are left out of it, and the gathered vectors are averaged once after each backward pass that DDP would
have averaged: 4·k bytes instead of 4·n. DDP itself rests meanwhile, as under its `no_sync`. FSDP2 needs
none of this, since it reduces while it shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from sparseopd.errors import OptimizerError
from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.shards import world_size

_BUCKET = 1 << 24
"""Gradients averaged in one call: 64 MiB."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse ways of spreading a model that hide or destroy its coordinates.

    Raises `OptimizerError` for DDP that was wrapped first, FSDP1, and DeepSpeed.
    """
    if isinstance(model, DistributedDataParallel):
        raise OptimizerError(
            "the model is already wrapped in DistributedDataParallel, which would average all gradients "
            "densely: build MaskedOptimizer from the plain model, then wrap it"
        )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise OptimizerError(
            "FSDP1 flattens parameters, so a mask's coordinates are lost: use FSDP2 (fully_shard, or "
            "fsdp_version: 2 in accelerate's configuration)"
        )
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if deepspeed or any(hasattr(weight, "ds_id") for weight in model.parameters()):
        raise OptimizerError(
            "DeepSpeed replaces optimizer and gradients by its own (ZeRO-3 flattens the parameters as "
            "well), so a mask cannot be kept: use DDP or FSDP2"
        )
    sharded = any(isinstance(weight, DTensor) for weight in model.parameters())
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not sharded:
        raise OptimizerError(
            "accelerate will shard this model with FSDP after the optimizer was built: shard it first, "
            "model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters())), then build "
            "MaskedOptimizer from it; Trainer, which builds its optimizer first, can use DDP"
        )


class Replicas:
    """Averages gathered gradients over processes that hold the same weights.

    The average is taken when a backward pass ends, unless DDP's `no_sync` is on, in which case the next
    pass that ends without takes it for both. Passes are noticed at the model's outputs, since a process
    whose batch needs no masked gradient must take part as well, and where gradients are gathered.
    """

    def __init__(self, model: nn.Module, compacts: Sequence[CompactParameter], digest: str) -> None:
        """Check that all processes start alike, and keep DDP off the masked parameters.

        Raises `OptimizerError` if weights or masks differ between processes.
        """
        _require_alike(model, digest)
        self._model, self._compacts = model, compacts
        smallest = min(compacts, key=lambda compact: compact.weight.numel())
        masked = {id(compact.weight) for compact in compacts if compact is not smallest}
        # DDP goes by every name of a tied weight.
        named = model.named_parameters(remove_duplicate=False)
        ours = {name for name, weight in named if id(weight) in masked}
        self._ours = masked
        self._before: set[str] = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
        # The same names as they are once torch.compile has wrapped the model.
        _leave_to_us(model, self._before | ours | {f"_orig_mod.{name}" for name in ours})
        self._hooks = [
            model.register_forward_pre_hook(_uncompiled(self._see_ddp)),
            model.register_forward_hook(_uncompiled(self._watch_outputs)),
        ]
        self._sync = True
        self._resting: DistributedDataParallel | None = None
        self._queued = False
        self.settled = False
        """Whether the gathered gradients are averages already."""
        self.bytes_sent = 0
        """Bytes of gradient given to the collective so far."""

    def in_backward(self, *_: object) -> None:
        """Average once the backward pass that is running is over."""
        self.settled = False
        if not self._queued:
            self._queued = True
            _when_backward_ends(self._finish)

    @torch.no_grad()
    def average(self) -> None:
        """Average the gathered gradients, unless that has been done; every process must call it.

        A parameter that no process has a gradient for keeps none, so that its decay and momentum rest.
        """
        if self.settled:
            return
        self.settled = True
        values = [compact.values for compact in self._compacts]
        used = torch.tensor([v.grad is not None for v in values], dtype=torch.int32)
        used = used.to(values[0].device)
        dist.all_reduce(used)
        trained = [v for v, count in zip(values, used.tolist(), strict=True) if count]
        for vector in trained:
            if vector.grad is None:
                vector.grad = torch.zeros_like(vector)
        for bucket in _buckets([cast(Tensor, vector.grad) for vector in trained]):
            flat = torch.cat(bucket)
            dist.all_reduce(flat)
            self.bytes_sent += flat.numel() * flat.element_size()
            flat.div_(world_size())
            for grad, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                grad.copy_(mean)

    def close(self) -> None:
        """Give the parameters back to DDP."""
        for hook in self._hooks:
            hook.remove()
        _leave_to_us(self._model, self._before)

    def _finish(self) -> None:
        self._queued = False
        self._wake_ddp()
        if self._sync:
            self.average()

    def _watch_outputs(self, _: nn.Module, __: object, outputs: object) -> None:
        tensors = [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        if tensors:
            register_multi_grad_hook(tensors, self.in_backward, mode="any")

    def _see_ddp(self, *_: object) -> None:
        self._wake_ddp()  # the forward before may have had no backward
        ddp = _running_ddp()
        self._sync = ddp is None or ddp.require_backward_grad_sync
        if ddp is None or not torch.is_grad_enabled():
            return
        ignored = set(ddp.parameters_to_ignore)
        named = ddp.module.named_parameters(remove_duplicate=False)
        if any(id(weight) in self._ours and name not in ignored for name, weight in named):
            raise OptimizerError(
                "DistributedDataParallel wraps another module than the one MaskedOptimizer was built "
                "from, and would average its gradients twice: build it from the module you wrap"
            )
        if self._sync:
            # It must be left one parameter, and would wait for processes that do not use that one.
            ddp.require_backward_grad_sync = False
            self._resting = ddp

    def _wake_ddp(self) -> None:
        if self._resting is not None:
            self._resting.require_backward_grad_sync = True
            self._resting.require_forward_param_sync = True  # of buffers
            self._resting = None


def _uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """Keep torch.compile from tracing a hook that looks at the world around it."""
    return torch.compiler.disable(hook)  # pyright: ignore[reportReturnType]


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Split vectors into runs of at most `_BUCKET` elements, or of one vector that is longer."""
    bucket: list[Tensor] = []
    for grad in grads:
        if bucket and sum(g.numel() for g in bucket) + grad.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket


def _require_alike(model: nn.Module, digest: str) -> None:
    # Sums of bit patterns, which no order of summation changes.
    bits = [
        weight.detach().view(_BITS[weight.element_size()]).sum() for weight in model.parameters()
    ]
    mine = torch.stack([torch.stack(bits).sum(), bits[0].new_tensor(int(digest[:15], 16))])
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(everyone, mine)
    for rank, other in enumerate(everyone):
        for what, one, two in zip(
            ("other weights", "another mask"), mine.tolist(), other.tolist(), strict=True
        ):
            if one != two:
                raise OptimizerError(
                    f"process {rank} has {what} than process {dist.get_rank()}: load the same "
                    "checkpoint and mask in every process"
                )


def _leave_to_us(model: nn.Module, names: set[str]) -> None:
    """Tell a later DDP which parameters not to average.

    The one place that calls this static method of DDP, a prototype API read from torch 2.13. DDP
    refuses a model of which it may average nothing, so it is left the smallest masked parameter.
    """
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(names))


def _running_ddp() -> DistributedDataParallel | None:
    """Return the DDP module whose forward is running (private, read from torch 2.13)."""
    return DistributedDataParallel._get_active_ddp_module()


def _when_backward_ends(callback: Callable[[], None]) -> None:
    """Call `callback` at the end of the backward pass that is running.

    The one place that uses the engine's queue (private, read from torch 2.13), as FSDP2 does.
    """
    torch.autograd.Variable._execution_engine.queue_callback(callback)  # pyright: ignore
