"""The bytes that a forward pass keeps are those that autograd saves, in every way of computing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sparseopd.feasibility.activations import Batch, Numbers, cache, numbers_of, saved
from sparseopd.feasibility.shapes import shape_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
BATCH = Batch(rows=3, length=40)
WAYS: list[Numbers] = ["float32", "half", "autocast"]


def make(kind: str, numbers: Numbers) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "qwen3":
        model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    return (model.bfloat16() if numbers == "half" else model).train()


def padded() -> dict[str, Tensor]:
    """A batch with a shorter prompt, as training has it."""
    mask = torch.ones(BATCH.rows, BATCH.length, dtype=torch.long)
    mask[0, :7] = 0
    return {"input_ids": torch.randint(0, 64, mask.shape), "attention_mask": mask}


def autocast(numbers: Numbers) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=numbers == "autocast")


def saved_by_autograd(model: PreTrainedModel, numbers: Numbers) -> int:
    """Bytes of the storages that a forward keeps, the parameters and copies of them apart."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(numbers):
        states = model.base_model(**padded(), use_cache=False).last_hidden_state
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    shapes = {tuple(w.shape) for w in model.parameters() if w.dim() == 2}
    copies = shapes | {shape[::-1] for shape in shapes}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in kept
        if tuple(tensor.shape) not in copies
    }
    del states  # until here, so that no storage is freed and its address used again
    return sum(size for place, size in storages.items() if place not in weights)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("numbers", WAYS)
def test_what_is_kept_is_what_autograd_saves(kind: str, numbers: Numbers) -> None:
    model = make(kind, numbers)
    expected = saved(shape_of(model.config).text, BATCH, numbers, checkpointing=False)
    assert expected == pytest.approx(saved_by_autograd(model, numbers), rel=0.05)


def test_checkpointing_keeps_every_layers_input() -> None:
    model = make("qwen3", "float32")
    shape = shape_of(model.config).text
    inputs = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], **_: Any) -> None:
        nonlocal inputs
        inputs += given[0].nbytes

    for layer in model.model.layers:  # pyright: ignore
        layer.register_forward_pre_hook(count)
    saved_by_autograd(model, "float32")
    assert saved(shape, BATCH, "float32", checkpointing=True) == inputs


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("numbers", WAYS)
def test_the_cache_is_as_large_as_the_models(kind: str, numbers: Numbers) -> None:
    model = make(kind, numbers).eval()
    held = DynamicCache(config=model.config)
    with torch.no_grad(), autocast(numbers):
        model.base_model(**padded(), past_key_values=held, use_cache=True)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in held.layers)  # pyright: ignore
    layers = SIZES["num_hidden_layers"]
    expected = cache(shape_of(model.config).text, BATCH, numbers)
    assert expected * layers == real * (layers + 1)


def test_how_a_model_computes_follows_from_its_weights_and_autocast() -> None:
    assert numbers_of("float32", autocast=False) == "float32"
    assert numbers_of("float32", autocast=True) == "autocast"
    assert numbers_of("bfloat16", autocast=True) == numbers_of("float16", autocast=False) == "half"


def test_the_mask_of_a_long_sequence_outgrows_everything_else() -> None:
    text = shape_of(make("qwen3", "half").config).text
    short, long = (saved(text, Batch(1, size), "half", checkpointing=False) for size in (64, 6400))
    assert long > 120 * short  # 100 times the tokens, 10,000 times the mask
