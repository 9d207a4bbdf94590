"""How far a student is from its teacher on its own rollouts: KL(student ‖ teacher), per token.

Over the whole vocabulary, in fp32, at temperature 1 whatever the temperature of sampling, on every
completion token up to and including the end-of-sequence token. A teacher that sees more than the
student is compared at the completion's own tokens, wherever its longer prompt puts them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, ProcessorMixin

from sparseopd.evaluation.statistics import PerPrompt
from sparseopd.pairs.encoding import encode, to_device
from sparseopd.pairs.loading import Processor
from sparseopd.pairs.sampling import Completion, Done

BUDGET_BYTES = 2**28
"""256 MiB for one model's fp32 logits of one sub-batch: rows × completion × vocabulary × 4 bytes.

Each sub-batch has at least one row, so a single completion may go beyond it."""

PerToken = Float[Tensor, "tokens"]

# Fields with a place for every prompt token; completions hold no images, so theirs are zero.
_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")


@torch.no_grad()
def divergence(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    processor: Processor,
    prompts: Dataset,
    completions: Sequence[Completion],
    *,
    batch_size: int,
    budget: int = BUDGET_BYTES,
    teacher_column: str = "prompt",
    template: Mapping[str, Any] = {},
    done: Done = lambda finished, total: None,
) -> PerPrompt:
    """Return each prompt's mean KL(student ‖ teacher) in nats, over all tokens of its completions.

    Logits beyond the smaller vocabulary are left out. Prompts are encoded again rather than kept
    from sampling: images of all prompts would fill the memory, and cannot be split by row alike in
    every model. Both models are in evaluation mode; the teacher may be on another device.

    Args:
        completions: at least one for every prompt.
        batch_size: most rows scored at once.
        budget: most bytes of one model's fp32 logits; see `BUDGET_BYTES`.
        teacher_column: which prompts the teacher sees, "prompt" or "teacher_prompt".
        template: variables for the chat template.
    """
    sums, counts = np.zeros(len(prompts)), np.zeros(len(prompts))
    finished = 0
    vocabulary = min(model.config.get_text_config().vocab_size for model in (student, teacher))
    for rows in _sub_batches(completions, vocabulary, batch_size, budget):
        completion, mask = _padded(rows)
        asked = [prompts[row.prompt] for row in rows]
        inputs = {
            column: _inputs(processor, encode(processor, asked, column, template), completion, mask)
            for column in dict.fromkeys(("prompt", teacher_column))
        }
        ours = _logits(student, inputs["prompt"], mask.shape[1])
        theirs = _logits(teacher, inputs[teacher_column], mask.shape[1]).to(ours.device)
        scored = zip(rows, mask.to(ours.device), ours, theirs, strict=True)
        for row, kept, student_logits, teacher_logits in scored:
            kl = token_divergence(student_logits[kept], teacher_logits[kept])
            sums[row.prompt] += kl.double().sum().item()
            counts[row.prompt] += len(kl)
        finished += len(rows)
        done(finished, len(completions))
    return sums / counts


def token_divergence(
    student_logits: Float[Tensor, "tokens student_vocabulary"],
    teacher_logits: Float[Tensor, "tokens teacher_vocabulary"],
) -> PerToken:
    """Return KL(student ‖ teacher) in nats of each token, over the vocabulary both models have."""
    shared = min(student_logits.shape[-1], teacher_logits.shape[-1])
    ours, theirs = (
        logits[:, :shared].float().log_softmax(dim=-1)
        for logits in (student_logits, teacher_logits)
    )
    said = ours.exp()
    # Logarithms, as a probability too small for float32 is no reason for an infinite distance.
    return torch.where(said > 0, said * (ours - theirs), 0.0).sum(dim=-1)


def _sub_batches(
    completions: Sequence[Completion], vocabulary: int, batch_size: int, budget: int
) -> Iterator[list[Completion]]:
    """Group completions of like length, so that little of a padded batch is padding."""
    ordered = sorted(completions, key=lambda completion: len(completion.ids))
    rows: list[Completion] = []
    for completion in ordered:
        size = (len(rows) + 1) * len(completion.ids) * vocabulary * 4
        if rows and (size > budget or len(rows) == batch_size):
            yield rows
            rows = []
        rows.append(completion)
    yield rows


def _padded(rows: Sequence[Completion]) -> tuple[Tensor, Tensor]:
    """Return the completions' tokens, and which places are tokens: (rows, tokens) both."""
    completion = pad_sequence([row.ids for row in rows], batch_first=True)
    lengths = torch.tensor([len(row.ids) for row in rows])
    return completion, torch.arange(completion.shape[1]) < lengths[:, None]


def _inputs(
    processor: Processor, fields: dict[str, Tensor], completion: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Return a model's inputs: the fields of encoded prompts, followed by the completions."""
    prompt, seen = fields["input_ids"], fields["attention_mask"]
    fields["input_ids"] = torch.cat([prompt, completion], dim=1)
    fields["attention_mask"] = torch.cat([seen, mask.to(seen.dtype)], dim=1)
    for name in _PER_TOKEN:
        if name in fields:
            empty = torch.zeros_like(completion, dtype=fields[name].dtype)
            fields[name] = torch.cat([fields[name], empty], dim=1)
    if not isinstance(processor, ProcessorMixin):
        # As `generate` counts positions; vision-language models derive theirs from the images.
        places = fields["attention_mask"].cumsum(dim=1) - 1
        fields["position_ids"] = places.clamp(min=0)
    return fields


def _logits(
    model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int
) -> Float[Tensor, "rows tokens vocabulary"]:
    """Return the logits that predict each completion token, in the model's own dtype."""
    accepted = inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": tokens + 1} if "logits_to_keep" in accepted else {}
    if "position_ids" not in accepted:
        inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    inputs = to_device(inputs, model.device)
    logits = model(**inputs, **keep, use_cache=False).logits
    return logits[:, -(tokens + 1) : -1]
