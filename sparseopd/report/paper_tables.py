"""The paper's published numbers on mask training, optimizers and overlaps, in percent (PAPER.md §4).

The table of sparsity and geometry is `analysis.paper.PAPER`; the source of all is `analysis.paper.SOURCE`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MaskTraining:
    """Accuracy in percent of training everything, or one mask alone; None where not published."""

    run: str
    measure: str
    full: float
    own: float
    """With the mask of the OPD run itself."""
    own_density: str
    other: float | None = None
    """With the mask of an RL run."""
    other_density: str = ""
    random: float | None = None
    """With a random mask of the OPD mask's density."""
    random_other: float | None = None
    """With a random mask of the RL mask's density."""


MASK_TRAINING = (
    MaskTraining(
        run="DS-R1-Distill-Qwen-1.5B",
        measure="AIME24+25 mean@16, peak",
        full=35.52,
        own=35.10,
        own_density="17.5 %",
        other=34.69,
        other_density="22.1 %",
        random=32.92,
    ),
    MaskTraining(
        run="DS-R1-Distill-Qwen-1.5B",
        measure="mean of the last 5",
        full=34.27,
        own=34.73,
        own_density="17.5 %",
    ),
    MaskTraining(
        run="Qwen2.5-VL-3B",
        measure="Geo3K, peak",
        full=55.72,
        own=54.24,
        own_density="about ⅓",
        other=49.98,
        random=52.30,
        random_other=47.40,
    ),
    MaskTraining(
        run="Qwen2.5-VL-3B", measure="Geo3K, final", full=54.94, own=54.23, own_density="about ⅓"
    ),
)
"""Its masks are {|Δ| > 1e-5} of a completed run; lr not retuned, one seed."""


@dataclass(frozen=True, kw_only=True)
class OptimizerRun:
    """One optimizer with the JustRL teacher: accuracy in percent, telemetry where published."""

    optimizer: str
    lr: float
    peak: float
    final: float
    cosine: tuple[float, float, float, float] | None = None
    """cos(m, g): at the start, mean, least, at the end."""
    variation: tuple[float, float, float] | None = None
    """CV(√v): at the start, mean, at the end."""


OPTIMIZERS = (
    OptimizerRun(
        optimizer="AdamW",
        lr=1e-6,
        peak=43.02,
        final=42.40,
        cosine=(0.958, 0.280, -0.351, 0.008),
        variation=(6.49, 4.85, 3.83),
    ),
    OptimizerRun(optimizer="SGD", lr=1e-2, peak=39.06, final=37.92),
)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How far the support of A lies in that of B, and back, in percent."""

    question: str
    """As `results.OverlapRow`."""
    name: str
    chance: float
    observed: float
    chance_back: float
    observed_back: float


OVERLAPS = (
    Overlap(
        question="methods",
        name="RLVR by OPD, DS-1.5B",
        chance=17.5,
        observed=53.2,
        chance_back=22.1,
        observed_back=67.2,
    ),
    Overlap(
        question="methods",
        name="GRPO by OPD, VLM",
        chance=33.3,
        observed=73.5,
        chance_back=13.4,
        observed_back=29.7,
    ),
    Overlap(
        question="teachers",
        name="OPD across two teachers",
        chance=29.6,
        observed=80.2,
        chance_back=17.5,
        observed_back=47.5,
    ),
)
