"""Simulated graders: how often would a comparison find what is there, and what is not?

    rate(superior, Grader(seeds=3, prompts=512), lift=0.05, comparisons=1000)

A sample is right with a probability whose logit adds the prompt's difficulty, the run's luck (arm and
seed), what an arm is good at (arm and prompt), and what a run is good at (arm, seed and prompt).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from sparseopd.evaluation.crossed import PerSeedAndPrompt
from sparseopd.evaluation.inference import Finding


@dataclass(frozen=True, kw_only=True)
class Grader:
    """How accuracies of arms come about; spreads are standard deviations of logits."""

    seeds: int = 3
    prompts: int = 512
    samples: int = 4
    accuracy: float = 0.85
    """Of an arm without a lift, over many prompts."""
    difficulty: float = 1.5
    """Between prompts."""
    luck: float = 0.1
    """Between runs of one arm; 0.1 is about a point of accuracy."""
    talent: float = 0.0
    """Between arms on one prompt."""
    whim: float = 0.5
    """Between runs of one arm on one prompt."""


def pair_of_arms(
    grader: Grader, lift: float, rng: np.random.Generator
) -> tuple[PerSeedAndPrompt, PerSeedAndPrompt]:
    """Draw the accuracies of two arms, the second better by `lift` on average (0…1)."""
    level, better = (_logit(grader, grader.accuracy + more) for more in (0.0, lift))
    prompts = rng.normal(0, grader.difficulty, grader.prompts)
    return _arm(grader, prompts + level, rng), _arm(grader, prompts + better, rng)


def rate(
    test: Callable[[PerSeedAndPrompt, PerSeedAndPrompt], Finding],
    grader: Grader,
    *,
    lift: float,
    comparisons: int,
    seed: int = 0,
) -> float:
    """Return how often a test of the second arm against the first says yes."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(comparisons):
        first, second = pair_of_arms(grader, lift, rng)
        found += test(second, first).found
    return found / comparisons


def _arm(grader: Grader, logits: np.ndarray, rng: np.random.Generator) -> PerSeedAndPrompt:
    shape = (grader.seeds, grader.prompts)
    logits = (
        logits
        + rng.normal(0, grader.luck, (grader.seeds, 1))
        + rng.normal(0, grader.talent, (1, grader.prompts))
        + rng.normal(0, grader.whim, shape)
    )
    return rng.binomial(grader.samples, expit(logits)) / grader.samples


def _logit(grader: Grader, accuracy: float) -> float:
    """Return the logit around which prompts lie where an arm has this accuracy over all of them."""
    spread = (grader.difficulty**2 + grader.luck**2 + grader.talent**2 + grader.whim**2) ** 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def beside(level: float) -> float:
        return float((weights * expit(level + spread * nodes)).sum()) - accuracy

    return float(brentq(beside, -20, 20))  # pyright: ignore[reportArgumentType]
