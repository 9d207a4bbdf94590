"""From raw measurements to the report's figures: intervals, gains, the share of a gain kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparseopd.artifacts import ArmScores, Interval
from sparseopd.evaluation.arms import Arm, TrainingRecord
from sparseopd.evaluation.harness_figures import Outcome
from sparseopd.evaluation.measure import Measurement
from sparseopd.evaluation.statistics import PerPrompt, bootstrap_mean, bootstrap_ratio
from sparseopd.recipe import Evaluate


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that is known of one arm."""

    arm: Arm
    record: TrainingRecord
    measurement: Measurement
    agreement: dict[str, float] | None
    outcome: Outcome | None = None
    """Its figures on public benchmarks, where any were run."""


def summarize(results: Sequence[Result], settings: Evaluate) -> list[ArmScores]:
    """Return each arm's figures; gains refer to the source, kept gains to the first full run."""
    gains = _gains(results)
    runs = [result.arm.name for result in results if result.arm.kind == "full"]
    full = gains.get(runs[0]) if runs else None
    options = bootstrap_options(settings)
    return [_arm_scores(result, gains.get(result.arm.name), full, options) for result in results]


def bootstrap_options(settings: Evaluate) -> dict[str, Any]:
    """Return the keywords of the bootstrap functions."""
    return {
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "seed": settings.seed,
    }


def _gains(results: Sequence[Result]) -> dict[str, PerPrompt]:
    """Return each arm's accuracy minus the source's, prompt by prompt; empty without a source."""
    accuracies = {
        result.arm.name: result.measurement.accuracy
        for result in results
        if result.arm.kind != "source"
    }
    sources = [result.measurement for result in results if result.arm.kind == "source"]
    source = sources[0].accuracy if sources else None
    if source is None:
        return {}
    return {name: own - source for name, own in accuracies.items() if own is not None}


def _arm_scores(
    result: Result, gain: PerPrompt | None, full: PerPrompt | None, options: dict[str, Any]
) -> ArmScores:
    own, record = result.measurement, result.record
    kept = None
    if gain is not None and full is not None and result.arm.kind != "teacher":
        kept = bootstrap_ratio(gain, full, **options)
    return ArmScores(
        name=result.arm.name,
        kind=result.arm.kind,
        path=result.arm.path,
        accuracy=_interval(own.accuracy, options),
        gain=_interval(gain, options),
        gain_kept=kept,
        kl=_interval(own.kl, options),
        agreement=result.agreement,
        truncated=own.truncated,
        mean_tokens=own.mean_tokens,
        density=record.density,
        lr=record.lr,
        steps=record.steps,
        seconds=record.seconds,
        curve=record.curve,
        layout=record.layout,
        stability=record.stability,
        per_prompt=[] if own.accuracy is None else own.accuracy.tolist(),
        examples=own.examples,
    )


def _interval(values: PerPrompt | None, options: dict[str, Any]) -> Interval | None:
    return None if values is None else bootstrap_mean(values, **options)
