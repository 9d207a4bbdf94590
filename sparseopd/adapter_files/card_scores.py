"""An evaluation on the model card: a table with intervals, its conditions, the command behind it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sparseopd.artifacts import ArmScores, Interval, RunDir, Scores

Form = Callable[[float], str]


@dataclass(frozen=True)
class Column:
    """A heading with its unit, and the figure of an arm under it."""

    title: str
    read: Callable[[ArmScores], Interval | float | None]
    form: Form

    def cell(self, arm: ArmScores) -> Markup:
        """Write an arm's figure: 96.1 [94.2, 97.6], or a dash where there is none."""
        value = self.read(arm)
        if isinstance(value, Interval) and math.isfinite(value.mean):
            ends = f"[{_shown(value.low, self.form)}, {_shown(value.high, self.form)}]"
            return Markup(f"{_shown(value.mean, self.form)} {ends}")
        return Markup(_shown(None if isinstance(value, Interval) else value, self.form))


COLUMNS = (
    Column("Trained, %", lambda arm: _trained(arm), lambda share: f"{100 * share:.3g}"),
    Column("Accuracy, %", lambda arm: arm.accuracy, lambda share: f"{100 * share:.1f}"),
    Column("Gain, points", lambda arm: arm.gain, lambda share: f"{100 * share:+.1f}"),
    Column("Gain kept, % of full's", lambda arm: arm.gain_kept, lambda ratio: f"{100 * ratio:.0f}"),
    Column("KL to teacher, nats a token", lambda arm: arm.kl, lambda value: f"{value:.3g}"),
)
_OPTIONS = {
    "evaluate.prompts": "prompts",
    "evaluate.samples": "samples",
    "evaluate.seed": "seed",
    "rollout.temperature": "temperature",
    "rollout.max_new_tokens": "max_new_tokens",
}
"""Options of `evaluate`, and what an evaluation calls them."""


def filled_columns(scores: Scores) -> list[Column]:
    """Return the columns that say something of at least one arm."""
    return [one for one in COLUMNS if any(one.read(arm) is not None for arm in scores.arms)]


def conditions(scores: Scores) -> str:
    """Say under which conditions the figures hold, as far as the scores tell."""
    known = scores.settings
    parts = [
        f"{known['prompts']:,} held-out prompts" if _is_count(known.get("prompts")) else "",
        f"{known['samples']:,} samples each" if _is_count(known.get("samples")) else "",
        *(f"{name} {known[name]}" for name in ("grader", "temperature", "seed") if name in known),
        f"weights in {known['dtype']}" if "dtype" in known else "",
    ]
    confidence = known.get("confidence")
    intervals = f"{100 * confidence:g} % " if isinstance(confidence, float) else ""
    return f"means with {intervals}bootstrap intervals over " + ", ".join(filter(None, parts))


def command_of(scores: Scores) -> str:
    """Return a command that repeats an evaluation: the one it recorded, else one for the same arms.

    RECIPE stands in it where no arm is a run, whose recipe would say what to evaluate on.
    """
    recorded = scores.settings.get("command")
    if isinstance(recorded, str) and recorded:
        return recorded
    models = [arm for arm in scores.arms if arm.kind not in ("source", "teacher")]
    words = ["sparseopd", "evaluate", *(_given(arm) for arm in models)]
    if not any(RunDir.is_run(word) for word in words[2:]):
        words += ["--recipe", "RECIPE"]
    known: dict[str, Any] = scores.settings
    kinds = {arm.kind for arm in scores.arms}
    words += [f"--no-{kind}" for kind in ("source", "teacher") if kind not in kinds]
    words += [f"{option}={known[name]}" for option, name in _OPTIONS.items() if name in known]
    return shlex.join(words)


def _given(arm: ArmScores) -> str:
    """Return what `evaluate` was given for an arm: its run, where the path is of a run's checkpoint."""
    folder = Path(arm.path)
    is_run = folder == RunDir(folder.parent).checkpoint and RunDir.is_run(folder.parent)
    return str(folder.parent) if is_run else arm.path


def _trained(arm: ArmScores) -> float | None:
    whole = arm.density is None and arm.kind in ("full", "contrast")
    return 1.0 if whole else arm.density


def _shown(value: float | None, form: Form) -> str:
    return "–" if value is None or not math.isfinite(value) else form(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int)
