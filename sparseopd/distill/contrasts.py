"""What on-policy distillation is set beside: SFT, offline KD and GRPO, by TRL's own trainers.

Each trains the same student on the same prompts, with the same optimizer, full or masked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sparseopd.artifacts import Progress, RunDir, written_whole
from sparseopd.distill import processes
from sparseopd.distill.arguments import sampling_arguments
from sparseopd.distill.prepare import Prepared
from sparseopd.distill.recipe_trainer import RecipeTrainer
from sparseopd.errors import DataError
from sparseopd.pairs.sampling import sample
from sparseopd.recipe import Recipe
from sparseopd.settings.batches import BatchShape
from sparseopd.tasks import Grader


class SFTRecipeTrainer(RecipeTrainer, SFTTrainer):
    """`SFTTrainer` on given completions."""


class GRPORecipeTrainer(RecipeTrainer, GRPOTrainer):
    """`GRPOTrainer` with the task's grader as the reward."""


def sft_trainer(
    recipe: Recipe, rows: Dataset, arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> SFTRecipeTrainer:
    """Train by cross entropy on the completions of `rows`, prompts left out of the loss.

    Args:
        rows: canonical prompts with a "completion" text each.
        arguments: of `TrainingArguments`.
        settings: of the trainer: model, processing class, callbacks, how to build the optimizer.
    """
    config = SFTConfig(**arguments, completion_only_loss=True, max_length=None)
    data = _conversations(rows, recipe.data.chat_template)
    return SFTRecipeTrainer(args=config, train_dataset=data, **settings)


def grpo_trainer(
    recipe: Recipe,
    prepared: Prepared,
    shape: BatchShape,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> GRPORecipeTrainer:
    """Train by GRPO without a KL penalty, as TRL has it by default, on the grader's verdicts."""
    config = GRPOConfig(
        **arguments,
        **sampling_arguments(recipe),
        num_generations=shape.samples,
        steps_per_generation=shape.accumulation * shape.updates,
        epsilon=recipe.objective.clip or 0.2,
        beta=0.0,
    )
    grader = prepared.prompts.grader
    assert grader is not None  # prepare refuses prompts without one
    return GRPORecipeTrainer(
        args=config, train_dataset=prepared.prompts.train, reward_funcs=_reward(grader), **settings
    )


def references(prepared: Prepared) -> Dataset:
    """Return the prompts with their reference answers as completions."""
    rows = prepared.prompts.train
    return rows.add_column("completion", list(rows["answer"]))  # pyright: ignore[reportCallIssue]


def teacher_completions(
    recipe: Recipe, prepared: Prepared, run: RunDir, count: int, progress: Progress | None
) -> Dataset:
    """Sample the teachers once on each of the first `count` prompts, or read what an earlier start sampled.

    Completions that were cut at `rollout.max_new_tokens` are left out, so that none is taught as
    finished. Raises `DataError` if none is left.
    """
    rows = prepared.prompts.train.select(range(min(count, len(prepared.prompts.train))))
    if processes.is_main() and not run.teacher_completions.exists():
        _write(run, _sampled(recipe, prepared, rows, progress))
    prepared.teachers.clear()  # its weights are not needed while the student trains
    processes.wait()
    lines = [json.loads(line) for line in run.teacher_completions.read_text("utf-8").splitlines()]
    kept = [row for row, line in enumerate(lines) if not line["truncated"]]
    if not kept:
        raise DataError(
            f"all {len(lines)} completions of the teacher were cut at rollout.max_new_tokens "
            f"{recipe.rollout.max_new_tokens}: raise it"
        )
    if len(kept) < len(lines):
        prepared.notes.append(
            f"{len(lines) - len(kept)} of {len(lines)} teacher completions were cut and left out"
        )
    texts = [lines[row]["completion"] for row in kept]
    return rows.select(kept).add_column("completion", texts)  # pyright: ignore[reportCallIssue]


def _sampled(
    recipe: Recipe, prepared: Prepared, rows: Dataset, progress: Progress | None
) -> list[dict[str, Any]]:
    """Have every teacher answer its own prompts."""
    whose = rows["teacher"] if "teacher" in rows.column_names else ["teacher"] * len(rows)
    lines: dict[int, dict[str, Any]] = {}
    for name, loaded in prepared.teachers.items():
        places = [row for row, teacher in enumerate(whose) if teacher == name]
        answered = len(lines)

        def done(finished: int, total: int, answered: int = answered) -> None:
            if progress is not None:
                progress("teacher", answered + finished, len(rows))

        assert isinstance(loaded.model, PreTrainedModel)  # servers are refused for this kind
        completions = sample(
            loaded.model,
            prepared.processor,
            rows.select(places),
            rollout=recipe.rollout,
            samples=1,
            batch_size=recipe.rollout.batch_size or recipe.train.batch_size,
            seed=recipe.seed,
            column="teacher_prompt" if "teacher_prompt" in rows.column_names else "prompt",
            template=recipe.data.chat_template,
            done=done,
        )
        for place, one in zip(places, completions, strict=True):
            lines[place] = {"completion": one.text, "truncated": one.truncated}
    return [lines[row] for row in range(len(rows))]


def _write(run: RunDir, lines: list[dict[str, Any]]) -> None:
    with written_whole(run.teacher_completions) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _conversations(rows: Dataset, template: Mapping[str, Any]) -> Dataset:
    """Put completions into the form that `SFTTrainer` takes for the prompts' own."""
    chat = not isinstance(rows[0]["prompt"], str)

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        text = row["completion"]
        told = {"completion": [{"role": "assistant", "content": text}] if chat else text}
        return told | ({"chat_template_kwargs": dict(template)} if template else {})

    kept = [name for name in ("prompt", "completion", "images") if name in rows.column_names]
    return rows.select_columns(kept).map(convert)


def _reward(grader: Grader) -> Callable[..., list[float]]:
    def correct(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [said if isinstance(said, str) else said[0]["content"] for said in completions]
        return [float(grader(text, right)) for text, right in zip(texts, answer, strict=True)]

    return correct
