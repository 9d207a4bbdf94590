"""From a model and a batch to the predictions an objective compares. What is private to TRL stands here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.distill.objectives.predictions import Head, Predictions

Inputs = dict[str, Any]
"""A micro batch as `DistillationTrainer` makes it: prompt_ids, prompt_mask, completion_ids,
completion_mask, (rows, length) each, and a multimodal model's own fields."""

MULTIMODAL = (
    "pixel_values",
    "image_grid_thw",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
"""Fields handed on to the model."""


def completion_states(
    trainer: DistillationTrainer, model: PreTrainedModel, inputs: Inputs
) -> Float[Tensor, "rows tokens h"]:
    """Return the hidden states that predict each completion token.

    Calls `DistillationTrainer._get_last_hidden_state`, read from trl 1.16.
    """
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    with _counted_positions(model, mask):
        return trainer._get_last_hidden_state(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            mask,
            inputs["completion_ids"].size(1),
            **{name: inputs[name] for name in MULTIMODAL if name in inputs},
        )


@contextmanager
def _counted_positions(model: PreTrainedModel, mask: Int[Tensor, "rows length"]) -> Iterator[None]:
    """Have a model with absolute positions count them from the first token, as `generate` does.

    TRL gives none, so that padding on the left would shift them. Rotary ones do not mind.
    """
    inner = model.base_model
    rotary = any("Rotary" in type(module).__name__ for module in model.modules())
    if rotary or "position_ids" not in inspect.signature(inner.forward).parameters:
        yield
        return
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    handle = inner.register_forward_pre_hook(
        lambda module, given, named: (given, {**named, "position_ids": places}), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def redirected(
    trainer: DistillationTrainer, wrapper: nn.Module, method: Callable[..., Any], *given: Any
) -> Any:
    """Call `method(inner, *given)` inside the forward of `wrapper`, as DDP and FSDP need.

    Calls `DistillationTrainer._forward_redirection`, read from trl 1.16.
    """
    inner = trainer.accelerator.unwrap_model(wrapper)
    return trainer._forward_redirection(wrapper, inner, method, inner, *given)


def head_of(model: PreTrainedModel, temperature: float, device: torch.device | None = None) -> Head:
    """Return what makes logits of the model's hidden states, on `device` (its own by default)."""
    layer: Any = model.get_output_embeddings()
    config = model.config.get_text_config()
    return Head(
        weight=layer.weight.to(device),
        bias=None if layer.bias is None else layer.bias.to(device),
        scale=logit_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
        temperature=temperature,
    )


def predictions(
    states: Float[Tensor, "rows tokens h"], taken: Bool[Tensor, "rows tokens"], head: Head
) -> Predictions:
    """Join the states of the taken tokens with a head, on the head's device."""
    device = head.weight.device
    return Predictions(states.to(device)[taken.to(device)], head)


def logit_scale(config: PretrainedConfig) -> float:
    """Return what a model's logits are multiplied by, under the names its family gives it.

    Cohere: logit_scale; Muse: output_multiplier; Falcon-H1: lm_head_multiplier; Granite and MiniCPM
    divide by logits_scaling, HyperCLOVA X multiplies by it.
    """
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None:
            return value
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return scaling if config.model_type == "hyperclovax" else 1 / scaling
