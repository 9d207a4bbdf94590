"""Sample completions with common random numbers: every arm meets the same draws.

Before each batch torch's generator is seeded by the recipe's seed and the batch's number, so two
identical models write identical completions, and similar ones differ only where they disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from sparseopd.pairs.encoding import encode, end_ids, to_device
from sparseopd.pairs.loading import Processor, tokenizer_of
from sparseopd.recipe import Rollout

Done = Callable[[int, int], None]
"""Called as done(finished, total)."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion."""

    prompt: int
    """Index of the prompt it answers."""
    ids: Tensor
    """(tokens,) on the CPU, up to and including the first end-of-sequence token."""
    text: str
    """What the grader sees: without the end and other special tokens."""
    truncated: bool
    """Whether it was cut at `max_new_tokens` before it ended."""


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    processor: Processor,
    prompts: Dataset,
    *,
    rollout: Rollout,
    samples: int,
    batch_size: int,
    seed: int,
    column: str = "prompt",
    template: Mapping[str, Any] = {},
    done: Done = lambda finished, total: None,
) -> list[Completion]:
    """Sample `samples` completions of every prompt; those of one prompt follow each other.

    `model` is in evaluation mode. The state of torch's generators (CPU and CUDA) is left as it was.

    Args:
        batch_size: completions sampled at once.
        column: which prompts the model sees, "prompt" or "teacher_prompt".
        template: variables for the chat template.
    """
    config = generation_config(model, processor, rollout)
    order = [prompt for prompt in range(len(prompts)) for _ in range(samples)]
    completions: list[Completion] = []
    for number, start in enumerate(range(0, len(order), batch_size)):
        batch = order[start : start + batch_size]
        rows = [prompts[prompt] for prompt in batch]
        inputs = to_device(encode(processor, rows, column, template), model.device)
        with _seeded(seed + number):
            written = model.generate(**inputs, generation_config=config)  # pyright: ignore
        written = written[:, inputs["input_ids"].shape[1] :].cpu()
        completions += _completions(written, batch, config.eos_token_id, processor)
        done(len(completions), len(order))
    return completions


def generation_config(
    model: PreTrainedModel, processor: Processor, rollout: Rollout
) -> GenerationConfig:
    """Return the settings that `DistillationTrainer` samples with."""
    tokenizer = tokenizer_of(processor)
    image = getattr(model.config, "image_token_id", None)
    vision = isinstance(processor, ProcessorMixin) and image is not None
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_ids(model, processor),
        suppress_tokens=[image] if vision else None,  # one more would not match the images
        disable_compile=True,
    )


def _completions(
    written: Tensor, batch: Sequence[int], ends: list[int], processor: Processor
) -> Iterator[Completion]:
    """Cut each row (tokens,) of `written` after its first end-of-sequence token."""
    ended = torch.isin(written, torch.tensor(ends))
    for ids, is_end, prompt in zip(written, ended, batch, strict=True):
        truncated = not is_end.any()
        length = len(ids) if truncated else int(is_end.int().argmax()) + 1
        ids = ids[:length].clone()
        # An end declared only by the generation config need not be special to the tokenizer.
        body = ids if truncated else ids[:-1]
        text = tokenizer_of(processor).decode(body, skip_special_tokens=True)
        yield Completion(prompt, ids, str(text), truncated)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
