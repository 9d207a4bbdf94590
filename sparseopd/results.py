"""What a comparison found, as `comparison.json` holds it and the report shows it.

    Results                 one comparison: settings, and a study for each pair
      Study                 one student and its teacher, on shared prompts, seeds and samples
        ArmResult           one way to train, at its own best learning rate, over all seeds
        GeometryRow         the paper's table row of one update, and of its nulls
        OverlapRow          how far two supports or masks overlap, beside chance and null
        SettlingRow         how far the mask after some steps is the last one
        TelemetryRow        what an optimizer saw while it trained

Shares are 0…1 and times in seconds. Files are read back by `Results.load`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sparseopd.artifacts import Interval, read_json, write_json
from sparseopd.errors import RunFolderError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One learning rate of an arm, on the validation split with the seeds that tune."""

    lr: float
    accuracy: float | None
    kl: float | None
    """KL(arm ‖ teacher) in nats a token, on the arm's own validation rollouts."""


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One arm with one seed, on the test prompts."""

    seed: int
    accuracy: float | None
    pass_at: dict[str, float] = field(default_factory=dict)
    """pass@k by k; "1" is the accuracy."""
    kl: float | None = None
    forgetting: float | None = None
    """KL(source ‖ arm) in nats a token, on the source's completions of another task's prompts."""
    truncated: float = 0.0
    mean_tokens: float = 0.0
    agreement: dict[str, float] = field(default_factory=dict)
    """Share of weights within 1e-5 and 1e-4 of the full run's of this seed, keyed "1e-05", "1e-04"."""
    seconds: float | None = None
    """Wall clock of its training; None for what was not trained."""
    right: list[int] = field(default_factory=list)
    """Right samples of each test prompt, in the shared order."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One test between two arms."""

    against: str
    """The other arm's name."""
    difference: Interval
    """This arm's accuracy minus the other's."""
    p: float
    adjusted: float
    """p after Holm's correction over all arms of the study that are put to this test."""
    margin: float | None = None
    """What counts as equivalent; None for a test of superiority."""
    found: bool
    """Whether the adjusted p is at most .05: equivalent within the margin, or better."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What an arm costs; None where it is not known."""

    seconds: float | None = None
    """Median wall clock of its test runs' training."""
    trainable: int | None = None
    """Coordinates that are trained."""
    state_bytes: int | None = None
    """Optimizer state, and masters beside the weights."""
    peak_bytes: int | None = None
    """Estimated peak memory of training (sparseopd check)."""
    shipped_bytes: int | None = None
    """The file that ships what was learned: a checkpoint's weights, an adapter."""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm of a study."""

    name: str
    kind: str
    """"source", "teacher", "full", "contrast", "masked", "lora" or "shira"."""
    chosen: str = ""
    """Masked arms: "discovered", "random", "random per tensor", "random by |W|", "low-magnitude",
    "principal", "off-principal"."""
    found_on: str = ""
    """Masks of elsewhere: "another seed", "another teacher", "another task", "another method"."""
    method: str = ""
    """The objective it trains by: reverse-kl, grpo, sft…"""
    optimizer: str = "adamw"
    """adamw, sgd, or "sgd, momentum 0.9"."""
    density: float | None = None
    k: int | None = None
    discovery_steps: int | None = None
    steps: int | None = None
    reordered: bool = False
    """Whether it trained on another data order, with other rollouts, than its mask was found on."""
    lr: float | None = None
    """Its best one, chosen on the validation split."""
    trials: list[Trial] = field(default_factory=list)
    """All that were tried, lowest first."""
    bracketed: bool = True
    """Whether the best lr has a worse one tried on both sides."""
    seeds: list[SeedResult] = field(default_factory=list)
    accuracy: Interval | None = None
    pass_at: dict[str, Interval] = field(default_factory=dict)
    gain: Interval | None = None
    """Accuracy minus the source's, paired."""
    kept: Interval | None = None
    """Share of full OPD's gain kept."""
    kl: Interval | None = None
    forgetting: Interval | None = None
    equivalence: Verdict | None = None
    """To the full arm."""
    superiority: Verdict | None = None
    """To the random arm of as many coordinates."""
    costs: Costs = field(default_factory=Costs)
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Logged steps of the first seed's test run: "step", "loss", …"""


@dataclass(frozen=True, kw_only=True)
class GeometryRow:
    """The paper's table row of one update, or of one of its nulls."""

    method: str
    """reverse-kl, offline-kd, sft, grpo."""
    seed: int
    side: str
    """"observed" (compared in bfloat16), "master" (before rounding), "shuffled" or "gaussian"."""
    values: dict[str, float | None]
    """By column key of analysis.paper.COLUMNS, in their units."""
    spread: dict[str, float | None] = field(default_factory=dict)
    """Of nulls: the standard deviation over the draws."""
    beyond: dict[str, str] = field(default_factory=dict)
    """Of "observed": by column, "above" or "below" where the nulls do not explain the figure."""


@dataclass(frozen=True, kw_only=True)
class OverlapRow:
    """Two supports or masks of one student."""

    question: str
    """"seeds", "teachers", "methods", "tasks"."""
    first: str
    second: str
    coverage: float | None
    """|A∩B| / |A|."""
    coverage_back: float | None
    chance: float
    """|B| / n."""
    chance_back: float
    null: float | None
    """Coverage of A if B is drawn anew within every |W| quantile of every tensor."""
    null_back: float | None
    jaccard: float | None
    of: str
    """"support" ({|Δ| > 1e-5}), or "top 10 %"."""


@dataclass(frozen=True, kw_only=True)
class SettlingRow:
    """How far the top-k mask after some steps is the one after the last."""

    seed: int
    steps: int
    density: float
    jaccard: float
    coverage: float
    """Share of it that the last mask has."""
    null: float | None
    """The same coverage if the last mask is drawn anew within every |W| quantile of every tensor."""


@dataclass(frozen=True, kw_only=True)
class TelemetryRow:
    """What one optimizer saw (PAPER.md §3), over one run."""

    optimizer: str
    lr: float
    seed: int
    steps: list[int]
    cosine: list[float | None]
    """cos(m_t, g_t)."""
    variation: list[float | None]
    """CV(√v)."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One pair."""

    name: str
    title: str
    """What the pair is, in words: "consolidation: the teacher is the student trained further"."""
    setting: str
    """The paper's setup that it stands for: "large → small", "consolidation", "self-distillation",
    "vision-language" or ""."""
    student: str
    teacher: str
    settings: dict[str, Any]
    """What all arms share: prompts, samples, sampling, steps, batch, dtypes…"""
    arms: list[ArmResult]
    geometry: list[GeometryRow] = field(default_factory=list)
    overlaps: list[OverlapRow] = field(default_factory=list)
    settling: list[SettlingRow] = field(default_factory=list)
    telemetry: list[TelemetryRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def arm(self, name: str) -> ArmResult:
        """Return an arm by its name. Raises `KeyError`."""
        return {arm.name: arm for arm in self.arms}[name]


@dataclass(frozen=True, kw_only=True)
class Results:
    """A whole comparison."""

    name: str
    command: str
    """What reproduces it."""
    settings: dict[str, Any]
    """seeds, tuning (factor, trials, validation prompts), margin, confidence, resamples, machine."""
    studies: list[Study]
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote. Raises `RunFolderError` on a foreign file or another format."""
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise RunFolderError(f"{path} does not hold a comparison of format {FORMAT}")
        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunFolderError(
                f"{path} does not hold a comparison ({place}: {first['msg']})"
            ) from error
