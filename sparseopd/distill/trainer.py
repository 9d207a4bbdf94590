"""The OPD trainer: TRL's `DistillationTrainer` with our optimizer, our log and a check on the loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.artifacts import Progress
from sparseopd.distill.objectives import beta
from sparseopd.errors import TrainingError
from sparseopd.optim import MaskedOptimizer
from sparseopd.optim.telemetry import watch_moments
from sparseopd.pairs.loading import Processor, pick_device
from sparseopd.recipe import Recipe

BuildOptimizer = Callable[[torch.nn.Module], torch.optim.Optimizer]


class OPDTrainer(DistillationTrainer):
    """`DistillationTrainer` that builds its optimizer by a function and stops at a non-finite loss."""

    def __init__(self, *, build_optimizer: BuildOptimizer, **settings: Any) -> None:
        self._build_optimizer = build_optimizer
        super().__init__(**settings)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer over the model on its final device (called once by `Trainer`)."""
        if self.optimizer is None:
            chosen: Any = self.model if model is None else model
            self.optimizer = self._build_optimizer(chosen)
        return self.optimizer

    def training_step(self, *inputs: Any, **settings: Any) -> Tensor:
        """Run one forward and backward. Raises `TrainingError` if the loss is not finite."""
        loss = super().training_step(*inputs, **settings)
        if not torch.isfinite(loss).all():
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: nothing was saved; "
                "lower optimizer.lr, or check the teacher's weights"
            )
        return loss


class RunLog(TrainerCallback):
    """Append each logged step to `metrics.jsonl` and report progress."""

    def __init__(self, path: Path, stage: str, progress: Progress | None) -> None:
        self._path, self._stage, self._progress = path, stage, progress
        self.step = 0
        self.last: dict[str, Any] = {}
        self.optimizer: MaskedOptimizer | None = None
        self.telemetry: dict[str, float] = {}
        """The last measurement that has not been written yet."""

    def watch(self, optimizer: torch.optim.Optimizer, every: int) -> None:
        """Take the norm of masked gradients, and telemetry every so many steps, from `optimizer`."""
        if isinstance(optimizer, MaskedOptimizer):
            self.optimizer = optimizer
        elif every:
            watch_moments(optimizer, lambda: (self.step + 1) % every == 0, self._keep)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take over the step that a resumed run goes on from."""
        self.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report that a step is done."""
        self.step = state.global_step
        if self.optimizer is not None and self.optimizer.telemetry.get("step") == self.step:
            self.telemetry = self.optimizer.telemetry
        if self._progress is not None:
            self._progress(self._stage, state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write one line; the summary that `Trainer` logs last has no loss and is left out."""
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        row = {"step": state.global_step, **{key: _finite(value) for key, value in logs.items()}}
        if self.optimizer is not None and self.optimizer.grad_norm is not None:
            row["grad_norm"] = float(self.optimizer.grad_norm)
        if self.telemetry:
            row["telemetry"], self.telemetry = self.telemetry, {}
        self.last = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _keep(self, found: dict[str, float]) -> None:
        self.telemetry = {"step": self.step + 1, **found}


def make_trainer(
    recipe: Recipe,
    *,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    processor: Processor,
    prompts: Dataset,
    steps: int,
    build_optimizer: BuildOptimizer,
    clip: float,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
    save_every: int,
) -> OPDTrainer:
    """Translate a recipe into TRL's configuration.

    `clip` is the norm to which `Trainer` clips dense gradients, 0 for none. The trainer writes to
    `folder` only the last state to resume from, every `save_every` steps, 0 for never.
    """
    train, rollout = recipe.train, recipe.rollout
    micro = train.micro_batch_size or train.batch_size
    device = pick_device(recipe.device)
    can_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    config = DistillationConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // micro,
        learning_rate=recipe.optimizer.lr,  # the optimizer has its own; schedulers scale that one
        lr_scheduler_type=recipe.optimizer.schedule,
        warmup_steps=recipe.optimizer.warmup_steps,
        max_grad_norm=clip,
        beta=beta(recipe.objective),
        max_completion_length=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        gradient_checkpointing=train.gradient_checkpointing,
        bf16=can_bf16 if train.bf16 is None else train.bf16,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
        logging_steps=train.log_every,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 1,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    return OPDTrainer(
        build_optimizer=build_optimizer,
        model=student,
        teacher_model=teacher,
        args=config,
        train_dataset=prompts,
        processing_class=processor,
        callbacks=list(callbacks),
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
