"""Prompts → the token ids and image fields a model is given, the same ones as in TRL's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin
from trl.data_utils import is_conversational, prepare_multimodal_messages

from sparseopd.errors import DataError
from sparseopd.pairs.loading import Processor, tokenizer_of

Row = dict[str, Any]
"""A canonical row: "prompt", "teacher_prompt" where teachers see more, "images" where there are any."""


def encode(
    processor: Processor,
    rows: Sequence[Row],
    column: str = "prompt",
    template: Mapping[str, Any] = {},
) -> dict[str, Tensor]:
    """Tokenize prompts, padded on the left, as `DistillationTrainer._tokenize_prompts` does.

    Returns "input_ids" and "attention_mask", (rows, prompt tokens) both, and whatever a multimodal
    processor adds. Raises `DataError` for images that the processor cannot take.

    Args:
        column: which prompts, "prompt" or "teacher_prompt"; all text, or all conversations.
        template: variables for the chat template, such as enable_thinking; plain text has none.
    """
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    prompts = [row[column] for row in rows]
    if not is_conversational({"prompt": prompts[0]}):
        return _ids_only(processor(text=prompts, **options))  # pyright: ignore[reportCallIssue]
    images = [row.get("images") or [] for row in rows]
    vision = isinstance(processor, ProcessorMixin)
    if vision:
        pairs = zip(prompts, images, strict=True)
        prompts = [prepare_multimodal_messages(prompt, images=several) for prompt, several in pairs]
    elif any(images):
        raise DataError("the prompts have images, which a model with only a tokenizer cannot read")
    encoded = processor.apply_chat_template(
        conversation=prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **options,
        **template,
    )
    return dict(encoded.items()) if vision else _ids_only(encoded)  # pyright: ignore


def end_ids(model: PreTrainedModel, processor: Processor) -> list[int]:
    """Return every token that ends a completion: the generation config's and the tokenizer's."""
    return declared_ends(model.generation_config, processor)


def declared_ends(config: GenerationConfig | None, processor: Processor) -> list[int]:
    """Return the tokens that a generation config and the tokenizer declare as ends."""
    declared = config.eos_token_id if config else None
    several = declared if isinstance(declared, list) else [declared]
    ends = [tokenizer_of(processor).eos_token_id, *several]
    return sorted({end for end in ends if isinstance(end, int)})


def to_device(fields: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move every field to a device."""
    return {name: value.to(device) for name, value in fields.items()}


def _ids_only(encoded: Any) -> dict[str, Tensor]:
    """Drop the token types that many tokenizers add and most language models refuse."""
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
