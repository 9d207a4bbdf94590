"""50 steps with decay, momentum and clipping leave every bit off the mask, in every kind of model."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import TrainingError
from sparseopd.masks import select
from sparseopd.pairs import open_tensors, tiny
from tests.conftest import SIZES, make_moe, make_qwen3

STEPS = 50


def make_gpt2() -> nn.Module:
    """Conv1D weights, learned positions, biases."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0))


def make_llava() -> nn.Module:
    """A vision tower with a convolution, a projector, and checkpoint names of its own."""
    return AutoModelForImageTextToText.from_pretrained(tiny.folder("tiny-digits") / "student")


def make_llama() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, mlp_bias=True))


def make_gemma() -> nn.Module:
    torch.manual_seed(0)
    return GemmaForCausalLM(GemmaConfig(**SIZES))


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": make_qwen3,
    "llama": make_llama,
    "gemma": make_gemma,
    "gpt2": make_gpt2,
    "mixture": make_moe,
    "llava": make_llava,
}


def inputs(model: Any, seed: int) -> dict[str, Tensor]:
    """A batch of two, with an image each for LLaVA."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 20, (2, 8), generator=generator)
    batch = {"input_ids": tokens, "labels": tokens}
    if hasattr(model.config, "vision_config"):
        vision = model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        marks = torch.full((2, patches), model.config.image_token_id)
        tokens[tokens == model.config.image_token_id] += 1
        batch["input_ids"] = torch.cat([marks, tokens], 1)
        batch["labels"] = torch.cat([torch.full_like(marks, -100), tokens], 1)
        size = (2, 3, vision.image_size, vision.image_size)
        batch["pixel_values"] = torch.randn(size, generator=generator).to(model.dtype)
    return batch


def run(model: Any, optimizer: MaskedOptimizer, steps: int = STEPS) -> None:
    for step in range(steps):
        model(**inputs(model, step)).loss.backward()
        optimizer.step()


def bits(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def changed(before: nn.Module, after: nn.Module, mask: Mask) -> tuple[list[str], float]:
    """Tensors that differ in a bit off the mask, and the share of masked coordinates that moved."""
    old, new = open_tensors(before), open_tensors(after)
    off, moved = [], 0
    for name in old.keys():
        differs = bits(old[name]) != bits(new[name])
        chosen = mask[name] if name in mask else torch.zeros_like(differs)
        moved += int((differs & chosen).sum())
        if bool((differs & ~chosen).any()):
            off.append(name)
    return off, moved / mask.count()


@pytest.mark.parametrize(
    ("dtype", "kind", "settings"),
    [
        (torch.float32, torch.optim.AdamW, {}),
        (torch.bfloat16, torch.optim.AdamW, {"stochastic_rounding": True}),
        (torch.bfloat16, torch.optim.SGD, {"momentum": 0.9}),
    ],
    ids=["adamw", "adamw-bf16-stochastic", "sgd-bf16"],
)
@pytest.mark.parametrize("name", MODELS)
def test_every_bit_off_the_mask_stays(
    name: str, dtype: torch.dtype, kind: Any, settings: dict[str, Any]
) -> None:
    model = MODELS[name]().to(dtype)
    before = copy.deepcopy(model)
    mask = select(model, selector="random", density=0.1)
    optimizer = MaskedOptimizer(
        model, mask, kind, lr=1e-2, weight_decay=0.1, max_grad_norm=0.5, **settings
    )
    run(model, optimizer)
    off, moved = changed(before, model, mask)
    assert off == []
    assert moved > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_parts_trains_like_the_plain_optimizer(name: str) -> None:
    """Tied and shared weights, 3-d experts, convolutions, norms and biases, all chosen."""
    model = MODELS[name]().float()
    plain = copy.deepcopy(model)
    dense = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.1)
    ours = MaskedOptimizer(
        model, select(model, selector="random", density=1.0), lr=1e-3, weight_decay=0.1
    )
    for step in range(5):
        plain(**inputs(plain, step)).loss.backward()
        dense.step()
        dense.zero_grad()
    run(model, ours, 5)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["qwen3", "mixture"])
def test_a_nan_names_its_parameter_and_changes_nothing(name: str) -> None:
    model = MODELS[name]()
    optimizer = MaskedOptimizer(
        model, select(model, selector="random", density=0.5), lr=1e-2, max_grad_norm=1.0
    )
    run(model, optimizer, 1)
    before = copy.deepcopy(model)
    model(**inputs(model, 1)).loss.backward()
    culprit = "model.layers.1.self_attn.k_proj.weight"
    values = dict(zip(optimizer.named_values(), optimizer.parameters(), strict=True))[culprit]
    assert values.grad is not None
    values.grad[0] = float("nan")
    with pytest.raises(TrainingError, match=re.escape(f"{culprit} is not finite: no weight")):
        optimizer.step()
    for one, other in zip(before.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_backward_saves_no_more_than_the_bare_model() -> None:
    def saved(masked: bool) -> int:
        model = make_qwen3()
        if masked:
            mask = select(model, selector="random", density=0.5)  # some of every tensor
            held = MaskedOptimizer(model, mask)
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(**inputs(model, 0)).loss
        total = sum(kept.values())
        loss.backward()
        if masked:
            held.close()
        return total

    assert saved(True) == saved(False)
