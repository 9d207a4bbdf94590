"""What arms reached on public benchmarks: rows of `Scores.benchmarks`, as evaluation writes and reports read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparseopd.artifacts import Interval, Scores


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """One arm's figure in one metric of one task."""

    task: str
    metric: str
    """What lm-evaluation-harness calls it: acc, exact_match."""
    filter: str
    """How it reads completions: strict-match; "none" where it takes them as they are."""
    arm: str
    value: float
    """The task's own figure in its own unit, the mean over documents for most metrics."""
    stderr: float | None
    """The harness's standard error; None where it has none for the metric."""
    n: int
    """Documents."""
    higher_is_better: bool | None
    reference: str | None = None
    """The arm it is compared with: the source or, without one, the first."""
    difference: Interval | None = None
    """`value` minus the reference's, paired by document; None where the metric is no mean over them."""

    def as_row(self) -> dict[str, Any]:
        """Return it as `Scores.benchmarks` holds it."""
        return asdict(self)


def read_benchmarks(scores: Scores) -> list[BenchmarkScore]:
    """Return the rows of an evaluation, in the order of tasks, then metrics, then arms."""
    return [_read(row) for row in scores.benchmarks]


def _read(row: dict[str, Any]) -> BenchmarkScore:
    difference = row.get("difference")
    return BenchmarkScore(**{**row, "difference": difference and Interval(**difference)})
