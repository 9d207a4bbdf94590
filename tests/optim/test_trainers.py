"""The trainers of transformers and TRL train the mask alone when given a MaskedOptimizer.

`Trainer` clips and measures `weight.grad`, which is empty by then: it clips nothing and logs a norm
of 0. `max_grad_norm` of MaskedOptimizer clips instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    get_linear_schedule_with_warmup,
)
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sparseopd import MaskedOptimizer
from sparseopd.masks import Mask
from sparseopd.pairs.tiny.vocabulary import character_tokenizer
from tests.conftest import SIZES, make_qwen3
from tests.optim.runs import (
    arguments,
    assert_only_the_mask_moved,
    assert_same_weights,
    make_examples,
    make_mask,
    training_arguments,
    weights_of,
)

STEPS = 6
LEARNING_RATE = 1e-2
CLIP = 0.5  # the norm over the mask is about 0.6


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, **settings: Any
) -> Trainer:
    """Run `Trainer` on the examples in their order, under a linear schedule."""
    settings = {"max_steps": STEPS, "train_sampling_strategy": "sequential"} | settings
    args = training_arguments(
        folder, lr_scheduler_type="linear", warmup_steps=2, logging_steps=1, **settings
    )
    trainer = Trainer(
        model, args, train_dataset=make_examples(4 * STEPS), optimizers=(optimizer, None)
    )
    trainer.train()
    return trainer


def train_by_hand(model: Qwen3ForCausalLM, mask: Mask, clip: float) -> None:
    """The same without `Trainer` and `MaskedOptimizer`: plain AdamW, and the rest put back.

    `Trainer` has the model divide each micro batch's summed loss by the number of labels in all micro
    batches of the step, the first one of a sequence left out since nothing predicts it.
    """
    start = weights_of(model)
    parameters = {name: w for name, w in model.named_parameters() if mask.count(name)}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE)
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, STEPS)
    examples = make_examples(4 * STEPS)
    for step in range(STEPS):
        parts = [examples[at : at + 2] for at in (4 * step, 4 * step + 2)]
        batches = [{key: torch.stack([e[key] for e in p]) for key in p[0]} for p in parts]
        count = torch.stack([batch["labels"][:, 1:] != -100 for batch in batches]).sum()
        for batch in batches:
            model(**batch, num_items_in_batch=count).loss.backward()
        norm = nn.utils.get_total_norm([w.grad[mask[name]] for name, w in parameters.items()])  # pyright: ignore
        nn.utils.clip_grads_with_norm_(parameters.values(), clip, norm)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(torch.where(mask[name], weight, start[name]))


@pytest.mark.parametrize("dense_clip", [0.0, 1e-3], ids=["unclipped", "clipped"])
def test_trainer_equals_a_loop_written_by_hand(dense_clip: float, tmp_path: Path) -> None:
    """And whatever norm `Trainer` itself is told to clip to does nothing."""
    model, by_hand = make_qwen3(), make_qwen3()
    before, mask = weights_of(model), make_mask(model)
    optimizer = MaskedOptimizer(model, mask, lr=LEARNING_RATE, max_grad_norm=CLIP)
    trainer = train(model, optimizer, tmp_path, max_grad_norm=dense_clip)
    assert_only_the_mask_moved(before, model, mask)
    train_by_hand(by_hand, mask, CLIP)
    assert_same_weights(weights_of(model), weights_of(by_hand))
    assert optimizer.grad_norm is not None and float(optimizer.grad_norm) > CLIP
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["grad_norm"] for row in rows] == [0.0] * STEPS
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [LEARNING_RATE * share for share in (0, 0.5, 1, 0.75, 0.5, 0.25)]
    )


def test_a_full_mask_under_trainer_is_plain_adamw(tmp_path: Path) -> None:
    plain, masked = make_qwen3(), make_qwen3()
    dense = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    full = make_mask(masked, 1.0)
    ours = MaskedOptimizer(masked, full, lr=LEARNING_RATE, weight_decay=0.1)
    for model, optimizer in ((plain, dense), (masked, ours)):
        train(model, optimizer, tmp_path)
    assert_same_weights(weights_of(plain), weights_of(masked))


def make_student(seed: int = 0) -> Qwen3ForCausalLM:
    """A random model that knows the characters."""
    torch.manual_seed(seed)
    sizes = SIZES | {"vocab_size": len(character_tokenizer())}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True))


def run_sft(folder: Path, **given: Any) -> SFTTrainer:
    rows = {"prompt": ["12+34=", "5+6="] * 4, "completion": ["64", "11"] * 4}
    return SFTTrainer(
        args=SFTConfig(**arguments(folder, max_steps=3, bf16=False), max_length=8),
        train_dataset=Dataset.from_dict(rows),
        **given,
    )


def run_grpo(folder: Path, **given: Any) -> GRPOTrainer:
    def count_digits(completions: list[str], **_: Any) -> list[float]:
        return [float(sum(map(str.isdigit, text))) for text in completions]

    settings = {"num_generations": 4, "max_completion_length": 8}
    return GRPOTrainer(
        args=GRPOConfig(**arguments(folder, max_steps=3, bf16=False), **settings),
        train_dataset=Dataset.from_dict({"prompt": ["12+34=", "5+6="] * 4}),
        reward_funcs=count_digits,
        **given,
    )


def run_distillation(folder: Path, **given: Any) -> DistillationTrainer:
    prompts = [[{"role": "user", "content": text}] for text in ("12+34=", "5+6=")] * 4
    settings = {"max_completion_length": 4, "per_device_train_batch_size": 4}
    return DistillationTrainer(
        args=DistillationConfig(**arguments(folder, max_steps=3, bf16=False), **settings),
        teacher_model=make_student(seed=1),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        **given,
    )


@pytest.mark.parametrize("make_trainer", [run_sft, run_grpo, run_distillation])
def test_trl_trains_the_mask_alone(make_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    model = make_student()
    before, mask = weights_of(model), make_mask(model)
    optimizer = MaskedOptimizer(model, mask, lr=LEARNING_RATE, weight_decay=0.0, max_grad_norm=1.0)
    trainer = make_trainer(
        tmp_path,
        model=model,
        processing_class=character_tokenizer(),
        optimizers=(optimizer, None),
    )
    trainer.train()
    assert trainer.state.global_step == optimizer.state_dict()["steps"] == 3
    assert_only_the_mask_moved(before, model, mask)
    assert optimizer.grad_norm is not None and float(optimizer.grad_norm) > 0
