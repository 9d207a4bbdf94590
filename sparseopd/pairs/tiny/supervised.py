"""The supervised training loop the tiny models come from: AdamW, warm-up, cosine to zero, fp32."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

Batch = dict[str, Tensor]
IGNORED = -100  # the label PyTorch's cross entropy skips


def fit(
    model: PreTrainedModel, batch: Callable[[int], Batch], *, steps: int, peak_lr: float
) -> None:
    """Train `model` in place for `steps` steps on `batch(step)`, which carries `labels`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, steps))
    model.train()
    for step in range(steps):
        loss = model(**batch(step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step + 1}/{steps} loss {loss.item():.4f}", file=sys.stderr, flush=True)
    model.eval()


def _lr_share(step: int, steps: int) -> float:
    """Give the share of the peak rate at `step`: linear over the first 5 %, cosine after."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> Batch:
    """Tokenize rendered prompts with their answers and `<|end|>`; only the latter are labels.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each [batch, longest]; padded on the right.
    """
    prompt_ids: list[list[int]] = tokenizer(list(prompts))["input_ids"]  # pyright: ignore
    ended = [answer + str(tokenizer.eos_token) for answer in answers]
    answer_ids: list[list[int]] = tokenizer(ended)["input_ids"]  # pyright: ignore
    longest = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    input_ids = torch.full((len(prompts), longest), pad)
    labels = torch.full((len(prompts), longest), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        start, stop = len(prompt), len(prompt) + len(answer)
        input_ids[row, :stop] = torch.tensor(prompt + answer)
        labels[row, start:stop] = torch.tensor(answer)
    attention_mask = (input_ids != pad).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def render(tokenizer: PreTrainedTokenizerBase, content: str | list[dict[str, str]]) -> str:
    """Render one user message, and the opening of the reply, through the chat template."""
    messages = [{"role": "user", "content": content}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(rendered)


def save(
    model: PreTrainedModel, processor: PreTrainedTokenizerBase | ProcessorMixin, out: Path
) -> None:
    """Write model and processor in Hugging Face layout, the weights rounded to bfloat16.

    `model` itself is cast: reload it from `out` to train on from exactly what was saved.
    """
    model.to(torch.bfloat16).save_pretrained(out)  # pyright: ignore[reportArgumentType]
    processor.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
