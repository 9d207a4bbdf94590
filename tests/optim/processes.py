"""Run by `accelerate launch` in several processes: trains, and leaves what rank 0 sees on disk.

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 tests/optim/processes.py FOLDER

The same functions run in one process give what the results are compared with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))  # the launcher starts it as a bare file

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import OptimizerError
from tests.conftest import SIZES

STEPS, BATCH = 4, 4
# Odd sizes, so that two shards of a tensor differ.
UNEVEN = {**SIZES, "vocab_size": 41, "intermediate_size": 49}


def make_model() -> Qwen3ForCausalLM:
    """A tiny Qwen3 whose rows do not divide by two."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**UNEVEN, tie_word_embeddings=True))


def make_mask(model: nn.Module) -> Mask:
    """A fifth of all coordinates; a norm and the last rows of a matrix alone; one tensor whole."""
    generator = torch.Generator().manual_seed(1)
    chosen = {
        name: torch.rand(weight.shape, generator=generator) < 0.2
        for name, weight in model.named_parameters()
    }
    first = "model.layers.0.mlp.down_proj.weight"
    chosen[first][: len(chosen[first]) // 2] = False  # nothing for the first of two processes
    chosen["model.layers.0.input_layernorm.weight"][:] = True
    chosen["model.layers.1.self_attn.q_proj.weight"][:] = False
    return Mask.from_tensors(chosen)


def batches(rank: int, world: int) -> Iterator[Tensor]:
    """This process' part of the batches: tokens (BATCH / world, 8) at a time."""
    generator = torch.Generator().manual_seed(2)
    while True:
        yield torch.randint(0, 41, (BATCH, 8), generator=generator)[rank::world]


def build(model: nn.Module, mask: Mask, **more: Any) -> MaskedOptimizer:
    """The optimizer of every run here."""
    return MaskedOptimizer(
        model, mask, torch.optim.AdamW, lr=1e-2, weight_decay=0.1, max_grad_norm=0.5, **more
    )


def train(
    model: nn.Module,
    optimizer: MaskedOptimizer,
    data: Iterator[Tensor],
    steps: int = STEPS,
    hold: Callable[[int], Any] = lambda part: nullcontext(),
) -> list[float]:
    """Two backward passes a step; `hold(part)` wraps each. Returns the norms of the gradients."""
    norms = []
    for _ in range(steps):
        for part in (0, 1):
            with hold(part):
                tokens = next(data)
                (model(input_ids=tokens, labels=tokens).loss / 2).backward()
        optimizer.step()
        assert optimizer.grad_norm is not None
        norms.append(float(optimizer.grad_norm))
    return norms


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The weights, put together from their shards."""
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in model.named_parameters()
    }


def sharded(model: Qwen3ForCausalLM, *size: int, columns: bool = False) -> Qwen3ForCausalLM:
    """The model under FSDP2 over a mesh of the given size; cut by columns where those are even."""

    def place(weight: nn.Parameter) -> Shard | None:
        return Shard(1) if columns and weight.dim() > 1 and weight.shape[1] % 2 == 0 else None

    mesh = init_device_mesh("cpu", size, mesh_dim_names=("copies", "shards")[-len(size) :])
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, shard_placement_fn=place)
    return fully_shard(model, mesh=mesh, shard_placement_fn=place)


def run_ddp(results: dict[str, Any], folder: Path) -> None:
    """DDP with accumulation under no_sync, and what it sent."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = make_model()
    optimizer = build(model, make_mask(model), telemetry_every=STEPS)
    wrapped = DistributedDataParallel(model)
    dense = 0

    def count(_, bucket):  # DDP refuses annotations that are strings
        nonlocal dense
        dense += bucket.buffer().numel()
        return allreduce_hook(dist.group.WORLD, bucket)

    wrapped.register_comm_hook(None, count)
    hold = lambda part: wrapped.no_sync() if part == 0 else nullcontext()  # noqa: E731
    results["ddp_norms"] = train(wrapped, optimizer, batches(rank, world), hold=hold)
    results["ddp_bytes"] = optimizer.bytes_sent
    results["ddp_dense"] = dense
    results["ddp_telemetry"] = optimizer.telemetry
    everyone: list[Any] = [None] * world
    dist.all_gather_object(
        everyone, {name: w.numpy().tobytes() for name, w in whole(model).items()}
    )
    results["ddp_replicas_equal"] = all(other == everyone[0] for other in everyone)
    results["ddp_errors"] = [
        refusal(lambda: build(DistributedDataParallel(make_model()), make_mask(make_model()))),
        refusal(lambda: build(shifted(rank), make_mask(make_model()))),
    ]
    if rank == 0:
        torch.save(whole(model), folder / "ddp.pt")
        torch.save(optimizer.state_dict(), folder / "ddp-state.pt")


def run_ddp_compiled(results: dict[str, Any], folder: Path) -> None:
    """DDP around a compiled model: the same training, and no dense gradient beside the k-vectors."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = make_model()
    optimizer = build(model, make_mask(model))
    wrapped = DistributedDataParallel(torch.compile(model, backend="aot_eager"))
    dense = 0

    def count(_, bucket):  # DDP refuses annotations that are strings
        nonlocal dense
        dense += bucket.buffer().numel()
        return allreduce_hook(dist.group.WORLD, bucket)

    wrapped.register_comm_hook(None, count)
    hold = lambda part: wrapped.no_sync() if part == 0 else nullcontext()  # noqa: E731
    train(wrapped, optimizer, batches(rank, world), hold=hold)
    results["compiled_dense"] = dense
    if rank == 0:
        torch.save(whole(model), folder / "compiled.pt")


class TwoInputs(nn.Module):
    """A vision layer that a batch without images does not use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.text = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, inputs: Tensor, image: bool) -> Tensor:
        return self.text(self.vision(inputs) if image else inputs)


def run_text_only(results: dict[str, Any], folder: Path) -> None:
    """Of two backward passes, both averaged, the first needs no masked gradient in one process."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = TwoInputs()
    mask = Mask.from_tensors({"vision.weight": torch.ones(6, 6, dtype=torch.bool)})
    optimizer = MaskedOptimizer(model, mask, torch.optim.SGD, lr=0.1)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    for part, image in enumerate((rank == 0, True)):
        inputs = two_inputs(part, rank, world)
        wrapped(inputs.requires_grad_(), image).square().mean().backward()
    optimizer.step()
    results["text_only"] = model.vision.weight.tolist()


def two_inputs(part: int, rank: int, world: int) -> Tensor:
    """The inputs of `run_text_only`, (4 / world, 6)."""
    generator = torch.Generator().manual_seed(part)
    return torch.randn(4, 6, generator=generator)[rank::world]


def run_fsdp_refusals(results: dict[str, Any], folder: Path) -> None:
    """What FSDP2 cannot do with shards is refused in every process, so that none waits."""
    model = sharded(make_model(), dist.get_world_size())
    mask = make_mask(make_model())
    results["fsdp_errors"] = [
        refusal(lambda: MaskedOptimizer(model, mask, bitsandbytes.optim.AdamW8bit, lr=1e-3)),
        refusal(lambda: scaled_step(model, build(model, mask))),
    ]


def scaled_step(model: nn.Module, optimizer: MaskedOptimizer) -> None:
    """A step under GradScaler."""
    scaler = torch.amp.GradScaler("cpu")
    tokens = next(batches(dist.get_rank(), dist.get_world_size()))
    scaler.scale(model(input_ids=tokens, labels=tokens).loss).backward()
    scaler.step(optimizer)


def shifted(rank: int) -> nn.Module:
    """A model that one process has other weights of."""
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.add_(rank)
    return model


def run_fsdp(results: dict[str, Any], folder: Path) -> None:
    """FSDP2; its state after half the steps, and the run resumed from one process' state."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mask = make_mask(make_model())
    model = sharded(make_model(), world)
    optimizer = build(model, mask, telemetry_every=STEPS)
    results["fsdp_local_k"] = optimizer.numel()
    data = batches(rank, world)
    norms = train(model, optimizer, data, STEPS // 2)
    half, half_weights = optimizer.state_dict(), whole(model)
    results["fsdp_norms"] = norms + train(model, optimizer, data, STEPS - STEPS // 2)
    results["fsdp_telemetry"] = optimizer.telemetry
    weights = whole(model)
    if rank == 0:
        torch.save(weights, folder / "fsdp.pt")
        torch.save({"state": half, "weights": half_weights}, folder / "fsdp-half.pt")
    dist.barrier()  # the file is there for all
    for name in ("fsdp-half.pt", "single-half.pt"):
        results[name] = resume(torch.load(folder / name, weights_only=True), weights, rank, world)


def resume(saved: dict[str, Any], expected: dict[str, Tensor], rank: int, world: int) -> float:
    """Go on from a state in a new sharded model; the largest difference from `expected`."""
    model = make_model()
    model.load_state_dict(saved["weights"], strict=False)
    optimizer = build(sharded(model, world), make_mask(make_model()))
    optimizer.load_state_dict(saved["state"])
    data = batches(rank, world)
    for _ in range(2 * (STEPS // 2)):
        next(data)
    train(model, optimizer, data, STEPS - STEPS // 2)
    found = whole(model)
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def run_layouts(results: dict[str, Any], folder: Path) -> None:
    """FSDP2 cut by columns, and with every shard held twice."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for label, size, columns in (("columns", (world,), True), ("copies", (world, 1), False)):
        model = sharded(make_model(), *size, columns=columns)
        optimizer = build(model, make_mask(make_model()), telemetry_every=1)
        results[f"{label}_norms"] = train(model, optimizer, batches(rank, world))
        results[f"{label}_telemetry"] = optimizer.telemetry
        saved = {"weights": whole(model), "state": optimizer.state_dict()}
        if rank == 0:
            torch.save(saved, folder / f"{label}.pt")


def run_accelerate(results: dict[str, Any], folder: Path) -> None:
    """Accelerate's loop: `prepare`, `accumulate`, and stochastic rounding of bf16 weights."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = make_model()
    optimizer = build(model, make_mask(model), seed=3, stochastic_rounding=True)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    results["accelerate_kind"] = type(wrapped).__name__
    data = batches(accelerator.process_index, accelerator.num_processes)
    for _ in range(2 * STEPS):
        with accelerator.accumulate(wrapped):
            tokens = next(data)
            accelerator.backward(wrapped(input_ids=tokens, labels=tokens).loss)
            prepared.step()
            prepared.zero_grad()
    results["accelerate_bytes"] = optimizer.bytes_sent
    if accelerator.is_main_process:
        torch.save(whole(model), folder / "accelerate.pt")


def run_accelerate_fsdp(results: dict[str, Any], folder: Path) -> None:
    """Accelerate's FSDP2: the model is sharded beside a placeholder, then the optimizer is built.

    Without an accelerator accelerate ignores its FSDP switch, so it is set where it looks.
    """
    model = make_model()
    mask = make_mask(model)
    model.config.tie_word_embeddings = False  # accelerate asks for this; the weights stay tied
    accelerator = Accelerator(cpu=True)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen3DecoderLayer"],
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    results["accelerate_fsdp_error"] = refusal(lambda: build_under_fsdp(model, mask))
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    optimizer = build(model, mask)
    accelerator.prepare_optimizer(optimizer)
    train(model, optimizer, batches(accelerator.process_index, accelerator.num_processes))
    results["accelerate_fsdp_local_k"] = optimizer.numel()
    weights = whole(model)
    if accelerator.is_main_process:
        torch.save(weights, folder / "accelerate-fsdp.pt")


def build_under_fsdp(model: nn.Module, mask: Mask) -> None:
    """Build it too early, as accelerate's launcher announces FSDP."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    try:
        build(model, mask)
    finally:
        del os.environ["ACCELERATE_USE_FSDP"]


def refusal(action: Callable[[], Any]) -> str:
    """The sentence an action is refused with."""
    try:
        action()
    except OptimizerError as error:
        return str(error)
    return "nothing was refused"


def main(folder: Path) -> None:
    """Run everything and write what was found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    run_ddp(results, folder)
    run_ddp_compiled(results, folder)
    run_text_only(results, folder)
    run_fsdp(results, folder)
    run_fsdp_refusals(results, folder)
    run_layouts(results, folder)
    run_accelerate(results, folder)
    run_accelerate_fsdp(results, folder)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, results)
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(everyone))
    dist.barrier()  # all is written; whoever leaves first must not break another's connection
    sys.stdout.flush()
    os._exit(0)  # gloo's threads for the meshes may abort an orderly exit ("terminate called")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
