"""The measurements of one arm over all seeds, as matrices of seeds × prompts, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseopd.artifacts import Interval
from sparseopd.evaluation.crossed import PerSeedAndPrompt
from sparseopd.evaluation.inference import Finding, equivalent, estimate, gain_kept, superior
from sparseopd.evaluation.pass_at_k import pass_at_k
from sparseopd.results import SeedResult, Verdict


@dataclass(frozen=True)
class Scored:
    """One arm on the test prompts; None where there is no grader, or no teacher to compare with."""

    correct: np.ndarray | None
    """(s, p, n) bool; a run that failed has nothing right."""
    kl: PerSeedAndPrompt | None
    forgetting: list[float | None]
    """By seed; a mean over the prompts of the other task."""
    seeds: list[int]
    found: list[dict[str, Any]]
    """What the measurements' files hold, by seed."""

    @property
    def accuracy(self) -> PerSeedAndPrompt | None:
        """Share of right samples."""
        return None if self.correct is None else self.correct.mean(axis=2)

    def pass_at(self, k: int) -> PerSeedAndPrompt | None:
        """Chance that one of k samples is right."""
        return None if self.correct is None else pass_at_k(self.correct, k)


def scored(
    found: Mapping[int, dict[str, Any]], *, samples: int, prompts: int, graded: bool
) -> Scored:
    """Read the measurements of one arm, by seed."""
    compared = all(one.get("kl") is not None for one in found.values())
    rows = [one.get("right") or [0] * prompts for one in found.values()]
    correct = np.arange(samples) < np.array(rows)[:, :, None] if graded else None
    return Scored(
        correct=correct,
        kl=np.array([one["kl"] for one in found.values()]) if compared else None,
        forgetting=[one.get("forgetting") for one in found.values()],
        seeds=list(found),
        found=list(found.values()),
    )


@dataclass(frozen=True)
class Statistics:
    """How intervals and tests are made."""

    confidence: float
    resamples: int
    margin: float

    def interval(
        self, values: PerSeedAndPrompt | None, within: tuple[float, float] | None = None
    ) -> Interval | None:
        """Return a mean with its interval over prompts and seeds."""
        if values is None:
            return None
        return estimate(values, within=within, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "resamples": self.resamples}

    def share(self, values: PerSeedAndPrompt | None) -> Interval | None:
        """Return the same of shares, 0…1."""
        return self.interval(values, (0.0, 1.0))

    def kept(self, arm: Scored, full: Scored | None, source: Scored) -> Interval | None:
        """Return the share of full's gain that an arm keeps."""
        if full is None or arm.accuracy is None or full.accuracy is None or source.accuracy is None:
            return None
        return gain_kept(arm.accuracy, full.accuracy, source.accuracy, **self._options)

    def equivalence(self, arm: Scored, full: Scored) -> Finding | None:
        """Test whether an arm is as good as full training, within the margin."""
        if arm.accuracy is None or full.accuracy is None:
            return None
        return equivalent(arm.accuracy, full.accuracy, self.margin, **self._options)

    def superiority(self, arm: Scored, random: Scored) -> Finding | None:
        """Test whether an arm is better than a random mask of its size."""
        if arm.accuracy is None or random.accuracy is None:
            return None
        return superior(arm.accuracy, random.accuracy, **self._options)


def verdict(test: Finding, against: str) -> Verdict:
    """Return a corrected test as results hold it."""
    return Verdict(
        against=against,
        difference=test.difference,
        p=test.p,
        adjusted=test.p if test.adjusted is None else test.adjusted,
        margin=test.margin,
        found=test.found,
    )


def seed_results(
    arm: Scored,
    pass_at: Sequence[int],
    agreements: Mapping[int, dict[str, float]],
    seconds: Mapping[int, float | None],
) -> list[SeedResult]:
    """Return an arm's figures seed by seed."""
    rows = []
    shares = {k: arm.pass_at(k) for k in pass_at}
    for place, seed in enumerate(arm.seeds):
        told = arm.found[place]
        accuracy = arm.accuracy
        rows.append(
            SeedResult(
                seed=seed,
                accuracy=None if accuracy is None else float(accuracy[place].mean()),
                pass_at={
                    str(k): float(values[place].mean())
                    for k, values in shares.items()
                    if values is not None
                },
                kl=None if arm.kl is None else float(arm.kl[place].mean()),
                forgetting=arm.forgetting[place],
                truncated=told.get("truncated", 0.0),
                mean_tokens=told.get("mean_tokens", 0.0),
                agreement=agreements.get(seed, {}),
                seconds=seconds.get(seed),
                right=told.get("right") or [],
            )
        )
    return rows
