"""Measure one model on the shared prompts: samples, their grades, the distance to the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool
from transformers import PreTrainedModel

from sparseopd.artifacts import Progress
from sparseopd.errors import SparseOPDError
from sparseopd.evaluation.arms import Arm
from sparseopd.evaluation.divergence import divergence
from sparseopd.evaluation.engines import Engine, Request, sample_with_vllm
from sparseopd.evaluation.statistics import PerPrompt
from sparseopd.evaluation.teachers import Teachers
from sparseopd.pairs.loading import Processor
from sparseopd.pairs.sampling import Completion, sample
from sparseopd.recipe import Evaluate, Model, Rollout
from sparseopd.tasks import Grader

EXAMPLE_PROMPTS, EXAMPLES_EACH = 4, 2

_CHECK = "check the weights, and whether their dtype is too narrow for them"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every arm is measured with."""

    teachers: Teachers
    routes: Mapping[str, list[int]]
    """The places of each teacher's prompts; nothing where no KL can be had."""
    processor: Processor
    prompts: Dataset
    grader: Grader | None
    rollout: Rollout
    evaluate: Evaluate
    progress: Progress
    teacher_column: str = "prompt"
    """The column of prompts that teachers see: "teacher_prompt" where they see more."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template."""
    notes: Sequence[str] = ()
    """What a reader of the figures must know of the teachers, in sentences."""
    engine: Engine = "transformers"
    """What samples: see `engines`."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model's raw figures; p prompts, each with s samples."""

    correct: Bool[np.ndarray, "p s"] | None
    """None without a grader."""
    kl: PerPrompt | None
    """Mean KL to each prompt's teacher per token, in nats; None for a teacher, or with one on a server."""
    truncated: float
    mean_tokens: float
    examples: list[dict[str, str]]

    @property
    def accuracy(self) -> PerPrompt | None:
        """Share of right samples of each prompt."""
        return None if self.correct is None else self.correct.mean(axis=1)


def measure(
    arm: Arm,
    model: PreTrainedModel,
    shared: Shared,
    completions: Sequence[Completion] | None = None,
) -> Measurement:
    """Sample, grade and score one model; a teacher gets no KL, and its own prompts.

    Args:
        completions: what another engine has sampled from it already.

    Raises:
        SparseOPDError: its probabilities are not finite; the sentence names the model.
    """
    completions = completions or _sample(arm, model, shared)
    correct = _grade(completions, shared)
    scored = arm.kind != "teacher" and shared.routes
    return Measurement(
        correct=correct,
        kl=_divergence(arm.name, model, completions, shared) if scored else None,
        truncated=float(np.mean([completion.truncated for completion in completions])),
        mean_tokens=float(np.mean([len(completion.ids) for completion in completions])),
        examples=_examples(completions, correct, shared),
    )


def sample_elsewhere(arm: Arm, model: Model, shared: Shared) -> list[Completion] | None:
    """Sample with the engine asked for, before the model itself is loaded; None for transformers."""
    if shared.engine == "transformers":
        return None
    shared.progress(f"{arm.name}: sampling", 0, 1, detail=shared.engine)
    request = Request(
        processor=shared.processor,
        prompts=shared.prompts,
        rollout=shared.rollout,
        samples=shared.evaluate.samples,
        seed=shared.evaluate.seed,
        column=_column(arm, shared),
        template=shared.template,
    )
    completions = sample_with_vllm(model, request)
    shared.progress(f"{arm.name}: sampling", 1, 1, detail=shared.engine)
    return completions


def _column(arm: Arm, shared: Shared) -> str:
    return shared.teacher_column if arm.kind == "teacher" else "prompt"


def _sample(arm: Arm, model: PreTrainedModel, shared: Shared) -> list[Completion]:
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
            column=_column(arm, shared),
            template=shared.template,
            done=lambda done, total: shared.progress(f"{arm.name}: sampling", done, total),
        )
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        sentence = f"{arm.name} gives probabilities that are not finite: {_CHECK}"
        raise SparseOPDError(sentence) from error


def _divergence(
    name: str, model: PreTrainedModel, completions: Sequence[Completion], shared: Shared
) -> PerPrompt:
    """Score each teacher's prompts by that teacher."""
    kl, finished = np.empty(len(shared.prompts)), 0
    for teacher in shared.teachers.in_turn(shared.routes):
        places = shared.routes[teacher]
        own = _to_prompts(completions, places)

        def report(done: int, total: int, before: int = finished) -> None:
            shared.progress(f"{name}: scoring", before + done, len(completions))

        kl[places] = divergence(
            model,
            shared.teachers[teacher],
            shared.processor,
            shared.prompts.select(places),
            own,
            batch_size=shared.evaluate.batch_size,
            teacher_column=shared.teacher_column,
            template=shared.template,
            done=report,
        )
        finished += len(own)
    if not np.isfinite(kl).all():
        raise SparseOPDError(f"the KL from {name} to the teacher is not finite: {_CHECK}")
    return kl


def _to_prompts(completions: Sequence[Completion], places: Sequence[int]) -> list[Completion]:
    """Return the completions of some prompts, numbered as these prompts alone would be."""
    index = {place: number for number, place in enumerate(places)}
    return [replace(one, prompt=index[one.prompt]) for one in completions if one.prompt in index]


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
