"""The model and the arms of `train_step.py`: what each trains, with which optimizer, and what it adds.

Every arm but "full, all parameters" adapts the same layers of the same random-weight Qwen3: the linear
projections `LAYERS` of every block. Names are "METHOD SHARE"; the report finds arms by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparseopd import MaskedOptimizer, select

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 8,
    "intermediate_size": 2304,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
}
BATCH = (4, 64)
"""Sequences, and tokens in each."""
THREADS, RATE = 2, 1e-4


@dataclass
class Trained:
    """A model ready to train, its optimizer, and what the arm holds beside the model's own weights."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    coordinates: int
    masters: list[Tensor] = field(default_factory=list)
    """Trained values that are not the model's own weights."""
    index: list[Tensor] = field(default_factory=list)
    note: str = ""


Build = Callable[[nn.Module], Trained]


def load_model(**other: int) -> nn.Module:
    """Build the model, or one that is `other` in some part of its shape: fp32, seeded random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, **other})).train()


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Sum the bytes of distinct storages."""
    storages = {storage.data_ptr(): storage for storage in map(Tensor.untyped_storage, tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def held_bytes(arm: Trained) -> dict[str, int]:
    """Return exact bytes of optimizer state, masters and index, after a step."""
    if isinstance(arm.optimizer, MaskedOptimizer):
        return arm.optimizer.memory()
    states = arm.optimizer.state.values() if arm.optimizer is not None else ()
    tensors = [one for state in states for one in state.values() if isinstance(one, Tensor)]
    groups = {"state": tensors, "masters": arm.masters, "index": arm.index}
    return {name: total_bytes(group) for name, group in groups.items()}


def adapted(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of `LAYERS`."""
    named = model.named_parameters()
    return [weight for name, weight in named if name.endswith(tuple(f"{x}.weight" for x in LAYERS))]


def _train_only(model: nn.Module, weights: list[nn.Parameter]) -> None:
    model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)


def _adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=RATE, fused=True)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _floor(model: nn.Module) -> Trained:
    """Forward and backward alone: every dense gradient is freed as soon as it is accumulated."""
    _train_only(model, weights := adapted(model))
    for weight in weights:
        weight.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
    return Trained(model, None, 0)


def _everything(model: nn.Module) -> Trained:
    weights = list(model.parameters())
    return Trained(model, _adamw(weights), _count(weights))


def _full(model: nn.Module) -> Trained:
    _train_only(model, weights := adapted(model))
    return Trained(model, _adamw(weights), _count(weights))


def _masked(density: float, eight_bit: bool = False, sampled: bool = False) -> Build:
    """Train a random mask of that density with `MaskedOptimizer`."""

    def build(model: nn.Module) -> Trained:
        scope = [f"*.{layer}.weight" for layer in LAYERS]
        mask = select(model, selector="random", density=density, scope=scope)
        inner, settings = _inner(eight_bit)
        optimizer = MaskedOptimizer(
            model, mask, inner, lr=RATE, sampled_gradients=sampled, **settings
        )
        return Trained(model, optimizer, optimizer.numel())

    return build


def _inner(eight_bit: bool) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
    if not eight_bit:
        return torch.optim.AdamW, {"fused": True}
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit, {}


def _peft(configure: Callable[[float], tuple[Any, str]]) -> Build:
    """Wrap the model in a PEFT adapter, and train that with fused AdamW.

    `configure` gets a LoRA's rank, not rounded, for one coordinate trained out of one.
    """

    def build(model: nn.Module) -> Trained:
        from peft import get_peft_model

        weights = adapted(model)
        config, note = configure(_count(weights) / sum(sum(weight.shape) for weight in weights))
        wrapped = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
        added = [weight for weight in wrapped.parameters() if weight.requires_grad]
        names = ("shira_indices", "supertuning_indices")
        held = [getattr(module, name, {}) for module in wrapped.modules() for name in names]
        index = [tensor for one in held for tensor in one.values()]
        return Trained(wrapped, _adamw(added), _count(added), list(added), index, note)

    return build


def _shira(density: float) -> Build:
    def configure(whole: float) -> tuple[Any, str]:
        from peft import ShiraConfig

        rank = round(density * whole)
        config = ShiraConfig(r=rank, target_modules=list(LAYERS), random_seed=0)
        return config, f"r = {rank}"

    return _peft(configure)


def _supertuning(density: float) -> Build:
    def configure(_: float) -> tuple[Any, str]:
        from peft import SupertuningConfig

        return SupertuningConfig(sparsity=1 - density, target_modules=list(LAYERS)), ""

    return _peft(configure)


def _lora(density: float = 0, rank: int = 0) -> Build:
    """Train a LoRA of that rank, or of the rank that trains nearest to that share."""

    def configure(whole: float) -> tuple[Any, str]:
        from peft import LoraConfig

        r = rank or round(density * whole)
        note = "" if rank else f"r = {r}"
        return LoraConfig(r=r, lora_alpha=r, target_modules=list(LAYERS)), note

    return _peft(configure)


FLOOR, FULL, EIGHT_BIT = "forward + backward", "full, same layers", "sparseopd 10 %, 8-bit AdamW"
SAMPLED = "sparseopd sampled"
"""With `sampled_gradients`, which pays up to an eighth of the coordinates."""
DENSITIES = (0.2, 0.1, 0.05, 0.01, 0.001)
ARMS: dict[str, Build] = {
    FLOOR: _floor,
    "full, all parameters": _everything,
    FULL: _full,
    **{f"sparseopd {100 * density:g} %": _masked(density) for density in DENSITIES},
    EIGHT_BIT: _masked(0.1, eight_bit=True),
    **{
        f"{SAMPLED} {100 * density:g} %": _masked(density, sampled=True)
        for density in DENSITIES[1:]
    },
    **{f"SHiRA {100 * density:g} %": _shira(density) for density in (0.1, 0.01)},
    **{f"SUPERTUNING {100 * density:g} %": _supertuning(density) for density in (0.1, 0.01)},
    **{f"LoRA {100 * density:g} %": _lora(density) for density in (0.1, 0.01)},
    "LoRA r=32": _lora(rank=32),
}
