"""Measure one model on the shared prompts: samples, their grades, the distance to the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool
from transformers import PreTrainedModel

from sparseopd.artifacts import Progress
from sparseopd.errors import SparseOPDError
from sparseopd.evaluation.divergence import divergence
from sparseopd.evaluation.sampling import Completion, sample
from sparseopd.evaluation.statistics import PerPrompt
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Evaluate, Rollout
from sparseopd.tasks import Grader

EXAMPLE_PROMPTS, EXAMPLES_EACH = 4, 2

_CHECK = "check the weights, and whether their dtype is too narrow for them"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every arm is measured with."""

    teacher: PreTrainedModel
    processor: Processor
    prompts: Dataset
    grader: Grader | None
    rollout: Rollout
    evaluate: Evaluate
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model's raw figures; p prompts, each with s samples."""

    correct: Bool[np.ndarray, "p s"] | None
    """None without a grader."""
    kl: PerPrompt | None
    """Mean KL to the teacher per token, in nats; None for the teacher itself."""
    truncated: float
    mean_tokens: float
    examples: list[dict[str, str]]

    @property
    def accuracy(self) -> PerPrompt | None:
        """Share of right samples of each prompt."""
        return None if self.correct is None else self.correct.mean(axis=1)


def measure(name: str, model: PreTrainedModel, shared: Shared) -> Measurement:
    """Sample, grade and score one model; the teacher itself gets no KL.

    Raises `SparseOPDError` naming the model where its probabilities are not finite.
    """
    completions = _sample(name, model, shared)
    correct = _grade(completions, shared)
    return Measurement(
        correct=correct,
        kl=None if model is shared.teacher else _divergence(name, model, completions, shared),
        truncated=float(np.mean([completion.truncated for completion in completions])),
        mean_tokens=float(np.mean([len(completion.ids) for completion in completions])),
        examples=_examples(completions, correct, shared),
    )


def _sample(name: str, model: PreTrainedModel, shared: Shared) -> list[Completion]:
    settings = shared.evaluate
    try:
        return sample(
            model,
            shared.processor,
            shared.prompts,
            rollout=shared.rollout,
            samples=settings.samples,
            batch_size=settings.batch_size,
            seed=settings.seed,
            done=lambda done, total: shared.progress(f"{name}: sampling", done, total),
        )
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise SparseOPDError(f"{name} gives probabilities that are not finite: {_CHECK}") from error


def _divergence(
    name: str, model: PreTrainedModel, completions: Sequence[Completion], shared: Shared
) -> PerPrompt:
    kl = divergence(
        model,
        shared.teacher,
        shared.processor,
        shared.prompts,
        completions,
        batch_size=shared.evaluate.batch_size,
        done=lambda done, total: shared.progress(f"{name}: scoring", done, total),
    )
    if not np.isfinite(kl).all():
        raise SparseOPDError(f"the KL from {name} to the teacher is not finite: {_CHECK}")
    return kl


def _grade(completions: Sequence[Completion], shared: Shared) -> Bool[np.ndarray, "p s"] | None:
    if shared.grader is None:
        return None
    answers = shared.prompts["answer"]
    grades = [shared.grader(item.text, answers[item.prompt]) for item in completions]
    return np.array(grades, dtype=bool).reshape(len(shared.prompts), -1)


def _examples(
    completions: Sequence[Completion], correct: Bool[np.ndarray, "p s"] | None, shared: Shared
) -> list[dict[str, str]]:
    """Show the first samples of the first prompts, the same ones for every arm."""
    samples = shared.evaluate.samples
    shown = []
    for prompt, row in enumerate(shared.prompts.select_columns(_texts(shared.prompts))):
        if prompt == EXAMPLE_PROMPTS:
            break
        for index in range(min(samples, EXAMPLES_EACH)):
            verdict = "" if correct is None else str(bool(correct[prompt, index])).lower()
            shown.append(
                {
                    "prompt": _question(row),
                    "completion": completions[prompt * samples + index].text,
                    "answer": row.get("answer", ""),  # pyright: ignore[reportAttributeAccessIssue]
                    "correct": verdict,
                }
            )
    return shown


def _texts(prompts: Dataset) -> list[str]:
    return [column for column in prompts.column_names if column != "images"]


def _question(row: Any) -> str:
    """The prompt as its reader would put it: the user's last turn of a conversation."""
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
