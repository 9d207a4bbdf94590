"""Sparse adapters under the trainers of transformers and TRL: what MaskedOptimizer trains there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sparseopd import Mask, MaskedOptimizer
from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapters import SparseConfig
from sparseopd.pairs.tiny.vocabulary import character_tokenizer
from tests.adapters.adapted import (
    adapt,
    differing,
    mask_of,
    new_values,
    values_of,
    weights_of,
    write_adapter,
)
from tests.conftest import SIZES, make_qwen3
from tests.optim.runs import arguments, make_examples, training_arguments

STEPS, LEARNING_RATE, CLIP = 4, 1e-2, 0.3
SETTINGS: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": LEARNING_RATE}


def train(model: nn.Module, folder: Path, optimizer: Any = None, **settings: Any) -> Trainer:
    """`Trainer` on the examples in their order, two micro batches to a step."""
    settings = {"max_steps": STEPS, "train_sampling_strategy": "sequential"} | SETTINGS | settings
    resume = settings.pop("resume_from_checkpoint", None)
    trainer = Trainer(
        model,
        training_arguments(
            folder, lr_scheduler_type="linear", warmup_steps=1, logging_steps=1, **settings
        ),
        train_dataset=make_examples(4 * STEPS),
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": CLIP},
    "checkpointed": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "autocast": {"bf16": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_trainer_trains_the_values_of_a_masked_optimizer(name: str, tmp_path: Path) -> None:
    settings = dict(RUNS[name])
    base, model = make_qwen3(), make_qwen3()
    start, mask = weights_of(base), mask_of(base)
    if name == "reentrant":  # PEFT does that by itself
        base.enable_input_require_grads()
    clip = settings.get("max_grad_norm")
    masked = MaskedOptimizer(base, mask, lr=LEARNING_RATE, weight_decay=0.0, max_grad_norm=clip)
    train(base, tmp_path, masked, **settings)
    trainer = train(adapted := adapt(model, mask), tmp_path, **settings)
    assert differing(weights_of(adapted), weights_of(base)) == []
    assert len(differing(weights_of(adapted), start)) > 20
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert len(norms) == STEPS and all(norm > (clip or 0) for norm in norms)
    assert differing(weights_of(adapted.unload()), start) == []


def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bits(tmp_path: Path) -> None:
    """In bf16, from float32 masters that the adapter's file carries."""
    mask = mask_of(make_qwen3().bfloat16())
    saved = {"save_strategy": "steps", "save_steps": 2}
    whole = adapt(make_qwen3().bfloat16(), mask)
    train(whole, tmp_path / "whole", **saved)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert SparseAdapter.load(checkpoint).has_masters
    resumed = adapt(make_qwen3().bfloat16(), mask)
    train(resumed, tmp_path / "again", resume_from_checkpoint=str(checkpoint))
    assert differing(weights_of(resumed), weights_of(whole)) == []
    masters = [{n: v.detach() for n, v in values_of(m).items()} for m in (whole, resumed)]
    assert differing(*masters) == []


@pytest.mark.parametrize("active", [True, False], ids=["active", "beside-another"])
def test_an_adapter_loaded_to_train_goes_on_from_its_masters(tmp_path: Path, active: bool) -> None:
    """By hand: whatever it was called, and whether it was active when it was loaded."""
    model = adapt(base := make_qwen3().bfloat16(), mask_of(base))
    values = [*values_of(model).values()]
    for held in values:
        held.grad = torch.full_like(held, 1e-3)
    torch.optim.SGD(values, lr=1.0).step()
    model.save_pretrained(str(tmp_path / "saved"))
    folder, fresh = tmp_path / "saved", make_qwen3().bfloat16()
    if active:
        again = PeftModel.from_pretrained(fresh, folder, "more", is_trainable=True)
    else:
        again = PeftModel.from_pretrained(fresh, folder, "other")
        again.load_adapter(folder, "more", is_trainable=True)
        assert all(held.requires_grad for held in values_of(again, "more").values())
        again.set_adapter("more")
    found, expected = values_of(again, "more"), values_of(model)
    assert all(held.requires_grad and held.dtype == torch.float32 for held in found.values())
    for one, other in zip(found.values(), expected.values(), strict=True):
        assert torch.equal(one, other)
    assert differing(weights_of(again), weights_of(model)) == []


def test_the_best_checkpoint_is_loaded_back(tmp_path: Path) -> None:
    mask = mask_of(make_qwen3())
    model = adapt(make_qwen3(), mask)
    args = training_arguments(
        tmp_path,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        greater_is_better=True,  # the first step's
        **SETTINGS | {"learning_rate": 0.1, "save_strategy": "steps", "save_steps": 1},
    )
    examples = make_examples(8)
    trainer = Trainer(model, args, train_dataset=examples, eval_dataset=examples)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None
    expected = PeftModel.from_pretrained(make_qwen3(), best)
    assert differing(weights_of(model), weights_of(expected)) == []


def make_student(seed: int = 0) -> Qwen3ForCausalLM:
    """A random model that knows the characters."""
    torch.manual_seed(seed)
    sizes = SIZES | {"vocab_size": len(character_tokenizer())}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True))


def run_sft(folder: Path, **given: Any) -> SFTTrainer:
    rows = {"prompt": ["12+34=", "5+6="] * 4, "completion": ["64", "11"] * 4}
    return SFTTrainer(
        args=SFTConfig(**arguments(folder, max_steps=2, bf16=False), **SETTINGS, max_length=8),
        train_dataset=Dataset.from_dict(rows),
        processing_class=character_tokenizer(),
        **given,
    )


def run_distillation(folder: Path, **given: Any) -> DistillationTrainer:
    prompts = [[{"role": "user", "content": text}] for text in ("12+34=", "5+6=")] * 4
    settings = {"max_completion_length": 4, "per_device_train_batch_size": 4, **SETTINGS}
    return DistillationTrainer(
        args=DistillationConfig(**arguments(folder, max_steps=2, bf16=False), **settings),
        teacher_model=make_student(seed=1),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=character_tokenizer(),
        **given,
    )


@pytest.mark.parametrize("way", ["peft_config", "model"])
@pytest.mark.parametrize("make", [run_sft, run_distillation])
def test_trl_trains_the_values_of_a_masked_optimizer(
    make: Callable[..., Trainer], way: str, tmp_path: Path
) -> None:
    base = make_student()
    start, mask = weights_of(base), mask_of(base)
    masked = MaskedOptimizer(base, mask, lr=LEARNING_RATE, weight_decay=0.0)
    make(tmp_path, model=base, optimizers=(masked, None)).train()
    given: dict[str, Any] = {"model": make_student(), "peft_config": SparseConfig(mask=mask)}
    trainer = make(tmp_path, **(given if way == "peft_config" else {"model": adapted(mask)}))
    trainer.train()
    model = trainer.model
    assert isinstance(model, PeftModel)
    assert differing(weights_of(model), weights_of(base)) == []
    assert len(differing(weights_of(model), start)) > 20
    trainer.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(make_student(), tmp_path / "saved")
    assert differing(weights_of(again), weights_of(base)) == []


def adapted(mask: Mask) -> PeftModel:
    """A new student under PEFT."""
    return adapt(make_student(), mask)


def run_dpo(model: PeftModel, folder: Path, **given: Any) -> list[dict[str, float]]:
    """What DPO logs of two steps."""
    rows = {"prompt": ["12+34="] * 4, "chosen": ["46"] * 4, "rejected": ["64"] * 4}
    settings = SETTINGS | {"logging_steps": 1, "max_length": 16}
    trainer = DPOTrainer(
        args=DPOConfig(**arguments(folder, max_steps=2, bf16=False), **settings),
        model=model,
        train_dataset=Dataset.from_dict(rows),
        processing_class=character_tokenizer(),
        **given,
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "rewards/chosen" in row]


@pytest.mark.parametrize("way", ["new", "loaded"])
def test_dpo_measures_against_the_model_it_began_with(way: str, tmp_path: Path) -> None:
    """A new adapter's reference is the base; a loaded one's is the adapter as it was loaded."""
    base = make_student()
    mask = mask_of(base)
    if way == "new":
        model: Any = base
        given: dict[str, Any] = {"peft_config": SparseConfig(mask=mask)}
    else:
        folder = write_adapter(tmp_path / "a", base, mask, new_values(mask, base, 0))
        model, given = PeftModel.from_pretrained(base, folder, is_trainable=True), {}
    before = weights_of(model)
    first, second = run_dpo(model, tmp_path / "run", **given)
    assert first["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    assert abs(second["rewards/chosen"]) > 1e-4
    trained = {name: w for name, w in weights_of(model).items() if name in before}
    assert differing(trained, before) != []


def test_the_base_of_a_trained_model_serves_as_its_own_reference(tmp_path: Path) -> None:
    base = make_qwen3()
    model = adapt(copy.deepcopy(base), mask_of(base))
    train(model, tmp_path)
    with model.disable_adapter():
        assert differing(weights_of(model), weights_of(base)) == []
