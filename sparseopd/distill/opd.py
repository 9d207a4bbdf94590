"""The on-policy trainer: TRL's `DistillationTrainer` with the objectives, teachers and batches of a recipe.

TRL samples the completions and runs the student; this class adds several completions a prompt, several
updates a batch of rollouts, teachers with prompts of their own, and a loss that is a weighted mean over
tokens of any objective of `objectives`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.utils import RepeatSampler

from sparseopd.distill.forward import (
    Inputs,
    completion_states,
    head_of,
    predictions,
    redirected,
)
from sparseopd.distill.log import Completions
from sparseopd.distill.objectives import Objective, TokenLoss, Tokens
from sparseopd.distill.prepare import LoadedTeacher
from sparseopd.distill.recipe_trainer import RecipeTrainer
from sparseopd.distill.rollouts import micro_batches, weigh
from sparseopd.distill.teachers import HeldTeacher, ServedTeacher, score_of
from sparseopd.errors import RecipeError
from sparseopd.pairs import encode
from sparseopd.pairs.loading import Processor, tokenizer_of
from sparseopd.settings.batches import BatchShape
from sparseopd.settings.objective import Reduction

AnyTeacher = HeldTeacher | ServedTeacher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be minimised, against whom, on which batches."""

    objective: Objective
    teachers: Mapping[str, LoadedTeacher]
    """Each by name."""
    shape: BatchShape
    reduction: Reduction
    remembers: bool
    """Whether the objective wants the sampled tokens' log-probabilities at the time of sampling."""
    at_once: int | None = None
    """Completions sampled at a time; None for a whole batch of rollouts."""
    shares: list[float] | None = None
    """Each teacher's share of the tokens, in order; None leaves them as they come."""
    template: dict[str, Any] = field(default_factory=dict)
    completions: Completions | None = None


class OPDTrainer(RecipeTrainer, DistillationTrainer):
    """`DistillationTrainer` after a `Plan`."""

    def __init__(self, *, plan: Plan, **settings: Any) -> None:
        super().__init__(teacher_model=None, **settings)
        self._plan = plan
        self._names = list(plan.teachers)
        self._teachers: list[AnyTeacher] = [
            one.model
            if isinstance(one.model, ServedTeacher)
            else HeldTeacher(one.model, one.settings, self)
            for one in plan.teachers.values()
        ]
        self._sums: dict[str, float] = defaultdict(float)
        """Of each figure over the tokens since the last log, and their "count"."""
        self._shares = None
        if plan.shares is not None:
            self._shares = torch.tensor(plan.shares, device=self.accelerator.device)

    def get_train_dataloader(self) -> Any:
        """Load a whole batch of rollouts at a time; each of its micro batches is a step of the loader."""
        prompts: Any = self.train_dataset
        return self._get_dataloader(
            dataset=prompts,
            description="Training",
            batch_size=self._plan.shape.rollouts,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        shape = self._plan.shape
        prompts: Any = self.train_dataset if dataset is None else dataset
        return RepeatSampler(
            data_source=prompts,
            mini_repeat_count=shape.samples,
            batch_size=shape.rollouts * self.accelerator.num_processes // shape.samples,
            repeat_count=shape.accumulation * shape.updates,
            shuffle=bool(self.shuffle_dataset),
            seed=self.args.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Inputs:
        """Sample when the last batch of rollouts is used up; return the next micro batch of it."""
        plan, step = self._plan, self._step
        every = plan.shape.accumulation * plan.shape.updates
        if step % every == 0 or self._buffered_inputs is None:
            rollouts = self._generate_and_score_completions(generation_batch)
            self._keep(rollouts)
            tokens = rollouts["completion_ids"].size(1)
            rollouts |= self._for_teachers(generation_batch, tokens)
            batches = micro_batches(rollouts, plan.shape)
            weigh(batches, plan.shape, plan.reduction, self._shares, self.accelerator)
            self._buffered_inputs = batches
            if plan.remembers and plan.shape.updates > 1:
                for batch in batches:
                    batch["old_log_probs"] = self._sampled_log_probs(batch)
        return self._buffered_inputs[step % every]

    def _generate_single_turn(
        self, prompt_ids: list[Any], images: Any, multimodal_fields: dict[str, Any], *more: Any
    ) -> list[Any]:
        """Sample a part of the prompts at a time, where the plan asks for it."""
        rows, at_once = len(prompt_ids), self._plan.at_once
        if at_once is None or at_once >= rows:  # pictures need not be one row a prompt
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *more)
        if any(len(values) != rows for values in multimodal_fields.values()):
            raise RecipeError(
                "rollout.batch_size needs images that this processor keeps row by row, and it does not: "
                "drop it"
            )
        said: list[Any] = []
        for first in range(0, rows, at_once):
            part = slice(first, first + at_once)
            fields = {name: values[part] for name, values in multimodal_fields.items()}
            said += super()._generate_single_turn(
                prompt_ids[part], images and images[part], fields, *more
            )
        return said

    def _for_teachers(self, rows: list[dict[str, Any]], tokens: int) -> Inputs:
        """Say whose each row is, and encode the prompts that teachers alone see.

        `tokens` is the length of the completions, which have no images.
        """
        device = self.accelerator.device
        whose = [self._names.index(row["teacher"]) if "teacher" in row else 0 for row in rows]
        found = {"teacher": torch.tensor(whose, device=device)}
        if "teacher_prompt" not in rows[0]:
            return found
        fields = encode(
            _processor(self), rows, column="teacher_prompt", template=self._plan.template
        )
        found["teacher_prompt_ids"] = fields["input_ids"].to(device)
        found["teacher_prompt_mask"] = fields["attention_mask"].to(device)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in fields:
                kinds = torch.nn.functional.pad(fields[name], (0, tokens))
                found[f"teacher_{name}"] = kinds.to(device)
        return found

    def compute_loss(
        self,
        model: Any,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the micro batch's part of its update's loss, times the number of processes.

        DDP averages the gradients of processes, and the loss is one mean over the tokens of all.
        """
        loss, sums = redirected(self, model, self._token_losses, inputs)
        everywhere: Any = self.accelerator.reduce(torch.stack(list(sums.values())), "sum")
        for name, value in zip(sums, everywhere.tolist(), strict=True):
            self._sums[name] += value
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *more: Any) -> None:
        """Log the means over all tokens since the last time, beside what TRL logs."""
        count = self._sums.pop("count", 0.0) or 1.0
        for name, value in self._sums.items():
            self._metrics["train"][name] = [value / count]
        self._sums.clear()
        super().log(logs, *more)

    def _token_losses(
        self, student: PreTrainedModel, inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the weighted loss of all tokens, and each figure that is logged, after their count.

        Autocast is entered here: accelerate wraps the model's forward in it, which is redirected.
        """
        with self.accelerator.autocast():
            return self._weighted_losses(student, inputs)

    def _weighted_losses(
        self, student: PreTrainedModel, inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        states, head = completion_states(self, student, inputs), head_of(student, self.temperature)
        total = inputs["total"].to(states.device) / self.accelerator.num_processes
        loss = states.new_zeros((), dtype=torch.float32)
        sums: dict[str, Tensor] = {"count": torch.zeros_like(loss)}
        for index in inputs["teacher"].unique().tolist():
            rows = (inputs["teacher"] == index).nonzero().squeeze(1)
            scores, taken = score_of(self._teachers[index], inputs, rows, self.temperature)
            found = self._plan.objective(
                predictions(states, taken, head),
                scores,
                _tokens(inputs, taken),
            )
            loss = loss + (found.loss * inputs["weights"][taken]).sum() / total
            for name, values in _figures(found).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + values.float().sum()
            sums["count"] = sums["count"] + taken.sum()
        return loss, sums

    @torch.no_grad()
    def _sampled_log_probs(self, batch: Inputs) -> Float[Tensor, "rows tokens"]:
        """Score the sampled tokens by the student that sampled them."""
        mask = batch["completion_mask"].bool()
        wrapped: Any = self.model_wrapped
        with self.accelerator.autocast():
            states = redirected(
                self,
                wrapped,
                lambda model, given: completion_states(self, model, given),
                batch,
            )
            student: Any = self.accelerator.unwrap_model(wrapped)
            found = predictions(states, mask, head_of(student, self.temperature))
            scored = found.log_probs_at(batch["completion_ids"][mask][:, None])
        return torch.zeros_like(mask, dtype=scored.dtype).masked_scatter(mask, scored.squeeze(1))

    def _keep(self, rollouts: Inputs) -> None:
        """Write a few completions down, where the plan asks for it."""
        kept, step = self._plan.completions, self.state.global_step
        if kept is None or not kept.due(step):
            return
        decode = tokenizer_of(_processor(self)).decode
        rows = []
        for prompt, seen, said, mask in zip(
            *(rollouts[name][:: self._plan.shape.samples][: kept.rows] for name in _TEXTS),
            strict=True,
        ):
            ids = said[mask.bool()]
            rows.append(
                {
                    "prompt": decode(_once(prompt[seen.bool()], self.model)),
                    "completion": decode(ids),
                    "truncated": int(ids[-1]) not in self.eos_token_ids,
                }
            )
        kept.keep(step, rows)


def _once(ids: Int[Tensor, "tokens"], model: Any) -> Int[Tensor, "tokens"]:
    """Keep the first of every run of image tokens, of which one image has hundreds."""
    image = getattr(model.config, "image_token_id", None)
    again = (ids == ids.roll(1)) & (ids == (-1 if image is None else image))
    return ids[~again]


_TEXTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def _processor(trainer: OPDTrainer) -> Processor:
    return trainer.processing_class  # pyright: ignore[reportReturnType]


def _tokens(inputs: Inputs, taken: Bool[Tensor, "rows tokens"]) -> Tokens:
    old = inputs.get("old_log_probs")
    return Tokens(inputs["completion_ids"][taken], None if old is None else old[taken])


def _figures(found: TokenLoss) -> dict[str, Tensor]:
    return {"entropy": found.entropy, "kl": found.kl, **found.extra}
