"""The models of `adapter.py`, and the adapters of its arms: always the linear layers of every block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from train_step_arms import LAYERS, SHAPE, adapted, load_model

import sparseopd.adapters
from sparseopd import select
from sparseopd.masks import Mask

DENSITY = 0.1
QWEN: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""The layers of Qwen3-0.6B, four of them."""
MODELS: dict[str, dict[str, Any]] = {"hidden 768": {}, "hidden 1024": QWEN}
"""The Qwen3 of 61 M parameters that other benchmarks train, and one of 71 M with real layers."""
QUICK: dict[str, dict[str, Any]] = {"hidden 256": {"hidden_size": 256, "num_hidden_layers": 2}}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fresh(shape: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """Build a model for inference; the same shape and dtype give the same weights."""
    return load_model(**shape).to(dtype).eval()


def size_of(model: nn.Module) -> dict[str, int]:
    """Return how many parameters a model has, and how many of them are adapted."""
    numel = sum(weight.numel() for weight in model.parameters())
    return {"parameters": numel, "adapted": sum(weight.numel() for weight in adapted(model))}


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the adapted layers, as PEFT finds them."""
    for name, module in model.named_modules():
        if name.endswith(LAYERS):
            yield name, module


def random_mask(model: nn.Module, seed: int, density: float = DENSITY) -> Mask:
    """Draw coordinates of the adapted layers."""
    scope = [f"*.{layer}.weight" for layer in LAYERS]
    return select(model, selector="random", density=density, scope=scope, seed=seed)


def save_sparse(model: nn.Module, mask: Mask, folder: Path) -> Path:
    """Save a sparse adapter of a model, which is then as it was; values are in the weights' dtype."""
    config = sparseopd.adapters.SparseConfig(mask=mask, save_masters=False)
    wrapped = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    step_at_random(wrapped)
    wrapped.save_pretrained(str(folder))
    wrapped.unload()
    return folder


def load_sparse(model: nn.Module, folder: Path, name: str = "default") -> peft.PeftModel:
    """Load an adapter for inference."""
    return peft.PeftModel.from_pretrained(model, str(folder), adapter_name=name)  # pyright: ignore


def step_at_random(model: nn.Module) -> None:
    """Take a step of SGD along random gradients, so that what is trained has values of its own."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.randn_like(weight)
    torch.optim.SGD(trained, lr=1e-3).step()
    for weight in trained:
        weight.grad = None


def matched_rank(model: nn.Module, density: float = DENSITY) -> int:
    """Return the rank at which a LoRA, or SHiRA's r, trains nearest to that share."""
    weights = adapted(model)
    whole = sum(weight.numel() for weight in weights) / sum(sum(one.shape) for one in weights)
    return max(1, round(density * whole))


def lora(rank: int) -> peft.LoraConfig:
    """Configure a LoRA that changes something."""
    return peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(LAYERS), init_lora_weights=False
    )


def shira(rank: int) -> peft.ShiraConfig:
    """Configure a SHiRA adapter of randomly drawn coordinates."""
    return peft.ShiraConfig(r=rank, target_modules=list(LAYERS), random_seed=0)


def supertuning(density: float = DENSITY) -> peft.SupertuningConfig:
    """Configure a SUPERTUNING adapter of the largest weights of every layer."""
    return peft.SupertuningConfig(sparsity=1 - density, target_modules=list(LAYERS))


def trained_values(model: nn.Module, kind: str) -> int:
    """Return how many values the parameters of a kind of adapter hold."""
    return sum(weight.numel() for name, weight in model.named_parameters() if kind in name)


def tokens(count: int, vocabulary: int = SHAPE["vocab_size"]) -> Tensor:
    """Draw one sequence: int64 (1, count)."""
    return torch.randint(vocabulary, (1, count), generator=torch.Generator().manual_seed(0))
