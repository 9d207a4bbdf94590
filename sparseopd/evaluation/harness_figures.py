"""From what lm-evaluation-harness returns to an arm's figures, and from those to paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparseopd.benchmark_scores import BenchmarkScore
from sparseopd.evaluation.statistics import bootstrap_mean

Key = tuple[str, str, str]
"""Task, metric, filter."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm's figures and, for means over documents, each document's."""

    arm: str
    scores: dict[Key, BenchmarkScore]
    documents: dict[Key, dict[int, float]]
    """By the number of the document."""


def rows_of(outcomes: Sequence[Outcome], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set every arm beside the first, the source where there is one, document by document.

    Args:
        options: keywords of `bootstrap_mean`.
    """
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.scores)
    return [
        _paired(outcome, outcomes[0], key, options).as_row()
        for key in keys
        for outcome in outcomes
        if key in outcome.scores
    ]


def _paired(
    outcome: Outcome, beside: Outcome, key: Key, options: Mapping[str, Any]
) -> BenchmarkScore:
    score, own, other = outcome.scores[key], outcome.documents.get(key), beside.documents.get(key)
    difference = None
    if outcome is not beside and own and other and own.keys() == other.keys():
        values = np.array([own[document] - other[document] for document in sorted(own)])
        difference = bootstrap_mean(values, **options)
    return replace(score, reference=beside.arm, difference=difference)


def read_scores(arm: str, found: Mapping[str, Any]) -> dict[Key, BenchmarkScore]:
    """Read the harness's figures, whose keys are `metric,filter` and `metric_stderr,filter`."""
    scores = {}
    for task, figures in found.get("results", {}).items():
        better = found.get("higher_is_better", {}).get(task) or {}
        for key, value in figures.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _finite(value):
                continue
            stderr = figures.get(f"{metric}_stderr,{kind}")
            scores[task, metric, kind] = BenchmarkScore(
                task=task,
                metric=metric,
                filter=kind,
                arm=arm,
                value=float(value),
                stderr=float(stderr) if _finite(stderr) else None,
                n=_count(found, task),
                higher_is_better=better.get(metric),
            )
    return scores


def _count(found: Mapping[str, Any], task: str) -> int:
    """Return how many documents a task had; a group's are those of its tasks."""
    counts = found.get("n-samples", {})
    if task in counts:
        return int(counts[task]["effective"])
    return sum(_count(found, child) for child in found.get("group_subtasks", {}).get(task, ()))


def read_documents(
    scores: Mapping[Key, BenchmarkScore], found: Mapping[str, Any]
) -> dict[Key, dict[int, float]]:
    """Return each document's figure, for metrics that are the mean of them."""
    samples, documents = found.get("samples", {}), {}
    for (task, metric, kind), score in scores.items():
        own = {
            int(sample["doc_id"]): sample.get(metric)
            for sample in samples.get(task, ())
            if sample.get("filter") == kind
        }
        if not own or not all(map(_finite, own.values())):
            continue
        values = {document: float(value) for document, value in own.items()}
        mean = sum(values.values()) / len(values)
        if math.isclose(mean, score.value, rel_tol=1e-6, abs_tol=1e-9):
            documents[task, metric, kind] = values
    return documents


def _finite(value: Any) -> bool:
    """Whether a figure is a number: the harness writes "N/A" where it has none."""
    return isinstance(value, (bool, int, float, np.number)) and math.isfinite(value)
