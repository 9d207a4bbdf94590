"""The finding in plain sentences, computed from the scores, honest about what they leave open."""

from __future__ import annotations

import math

from sparseopd.artifacts import ArmScores, Interval, Scores
from sparseopd.report import arms, words

BENCHMARKS_ALONE = "Only public benchmarks were run: their table says what each arm reached."
TOO_WIDE = 0.5
"""An interval of the gain kept wider than this (50 % of full's gain) cannot show "kept"."""
MOST_CLAUSES = 4
NO_FULL = "There is no full run to compare with, so the share of its gain kept is unknown."
NO_SHARE = "The share of full OPD's gain kept was not measured."
NO_CLEAR_GAIN = "Full OPD's gain is not clearly above zero, so a share of it would mean little."
NO_CONTROL = (
    "No random mask of the same density was run, "
    "so this cannot say whether the choice of coordinates matters."
)
ONE_OVERLAP = (
    "The two intervals overlap, "
    "so this does not settle whether the chosen coordinates beat random ones."
)
SOME_OVERLAP = (
    "Some intervals of chosen and random masks overlap, "
    "so this does not settle whether the choice of coordinates matters."
)


def answer(scores: Scores) -> list[str]:
    """Say what the evaluation found: the answer first, then its conditions.

    Always at least one sentence. Intervals are those of the scores; nothing is resampled here.
    """
    if scores.benchmarks and not any(arm.accuracy or arm.kl for arm in scores.arms):
        return [BENCHMARKS_ALONE]
    if not any(arm.accuracy for arm in scores.arms):
        return _without_grader(scores)
    masked = [arm for arm in arms.of(scores, "masked", "random") if arm.accuracy]
    if not masked:
        return _without_mask(scores)
    if any(arm.gain_kept for arm in masked):
        return _against_full(scores)
    return _without_full(scores, masked)


def _against_full(scores: Scores) -> list[str]:
    chosen = [arm for arm in arms.of(scores, "masked") if arm.gain_kept]
    random = [arm for arm in arms.of(scores, "random") if arm.gain_kept]
    shown = (chosen[: MOST_CLAUSES - 1] + random)[:MOST_CLAUSES]
    first, *rest = [
        f"{_subject(arm, chosen, random)} kept "
        + words.with_interval(arm.gain_kept, words.kept, " %")
        for arm in shown
    ]
    sentences = [_sentence("; ".join([f"{first} of full OPD's gain", *rest]))]
    sentences += _left_out(len(chosen) + len(random) - len(shown))
    full = arms.first(scores, "full")
    if full and full.gain:
        sentences.append(_raised("Full OPD", full, arms.first(scores, "source")))
        if full.gain.low <= 0:
            return [*sentences, NO_CLEAR_GAIN]
    return [*sentences, *_verdicts_on_full(chosen), *_verdict_on_choice(chosen, random)]


def _verdicts_on_full(chosen: list[ArmScores]) -> list[str]:
    """Read every chosen mask against full OPD: once where all read the same, else by name."""
    verdicts = [
        (arm, _verdict_on_full(arm.gain_kept))
        for arm in chosen[: MOST_CLAUSES - 1]
        if arm.gain_kept
    ]
    if len({verdict for _, verdict in verdicts}) == 1:
        return [verdicts[0][1]]
    return [f"{words.shorten(arm.name, 40)}: {verdict}" for arm, verdict in verdicts]


def _verdict_on_full(kept: Interval) -> str:
    """Read an interval of the gain kept against 100 %: the whole of full OPD's gain."""
    if kept.high <= 0:
        return "The mask gained nothing over the source model."
    if kept.high < 1:
        return "That falls short of full OPD: the interval ends below 100 %."
    if kept.low > 1:
        return "That is more than full OPD gained: the interval begins above 100 %."
    if kept.high - kept.low > TOO_WIDE:
        return "The interval is too wide to tell keeping the gain from losing much of it."
    return "The interval includes 100 %, so these prompts show no loss against full OPD."


def _verdict_on_choice(chosen: list[ArmScores], random: list[ArmScores]) -> list[str]:
    """Read chosen masks against random ones of the same density: does the choice matter?

    Both intervals are of the gain kept or, without a full run, of the gain.
    """
    pairs = [
        (one.gain_kept or one.gain, other.gain_kept or other.gain)
        for one in chosen
        for other in random
        if _same_density(one, other)
    ]
    pairs = [(one, other) for one, other in pairs if one and other]
    if not chosen:
        return []
    if not pairs:
        return [NO_CONTROL]
    if all(one.low > other.high for one, other in pairs):
        return ["The chosen coordinates beat random ones: their intervals do not overlap."]
    if all(one.high < other.low for one, other in pairs):
        return ["Random coordinates beat the chosen ones: their intervals do not overlap."]
    return [ONE_OVERLAP if len(pairs) == 1 else SOME_OVERLAP]


def _without_full(scores: Scores, masked: list[ArmScores]) -> list[str]:
    chosen = [arm for arm in masked if arms.role(arm) == "masked"]
    random = [arm for arm in masked if arms.role(arm) == "random"]
    source, full = arms.first(scores, "source"), arms.first(scores, "full")
    shown = masked[:MOST_CLAUSES]
    sentences = [_raised(_subject(arm, chosen, random), arm, source) for arm in shown]
    sentences += _left_out(len(masked) - MOST_CLAUSES)
    sentences += _verdict_on_choice(chosen, random)
    if full is None:
        return [*sentences, NO_FULL]
    if full.gain is None:
        return [*sentences, NO_SHARE]
    reason = NO_CLEAR_GAIN if full.gain.low <= 0 else NO_SHARE
    return [*sentences, _raised("Full OPD", full, source), reason]


def _without_mask(scores: Scores) -> list[str]:
    full, source = arms.first(scores, "full"), arms.first(scores, "source")
    if full and full.accuracy:
        return [_raised("Full OPD", full, source), "No masked run was evaluated."]
    graded = [arm for arm in scores.arms if arm.accuracy]
    listed = "; ".join(
        f"{words.shorten(arm.name, 40)} {words.with_interval(arm.accuracy, words.accuracy, ' %')}"
        for arm in graded[:MOST_CLAUSES]
    )
    left_out = _left_out(len(graded) - MOST_CLAUSES)
    trained = any(arm.kind in ("contrast", "lora", "shira") for arm in graded)
    what = "masked" if trained else "trained"
    return [f"Accuracy: {listed}.", *left_out, f"No {what} run was evaluated."]


def _without_grader(scores: Scores) -> list[str]:
    reason = "No grader applies to these prompts, so nothing can be said of accuracy."
    measured = [arm for arm in scores.arms if arm.kl and arm.kind != "teacher"]
    if not measured:
        return [reason, "KL to the teacher was not measured either."]
    listed = "; ".join(
        f"{words.shorten(arm.name, 40)} {words.with_interval(arm.kl, words.scientific)}"
        for arm in measured[:MOST_CLAUSES]
    )
    left_out = _left_out(len(measured) - MOST_CLAUSES)
    return [f"KL to the teacher, in nats per token: {listed}.", *left_out, reason]


def _subject(arm: ArmScores, chosen: list[ArmScores], random: list[ArmScores]) -> str:
    """Name an arm by its share of the coordinates, and by its own name where that is not enough."""
    name = f" ({words.shorten(arm.name, 40)})"
    if arms.role(arm) == "random":
        same = any(_same_density(arm, other) for other in chosen)
        clear = len(random) == 1 and len(chosen) == 1
        return f"a random mask {_of_density(arm, same and clear)}{'' if clear else name}"
    share = f"{words.density(arm.density)} %" if arm.density is not None else "some"
    return f"training {share} of the coordinates{'' if len(chosen) == 1 else name}"


def _of_density(arm: ArmScores, same: bool) -> str:
    if same:
        return "of the same density"
    return "of unknown density" if arm.density is None else f"of {words.density(arm.density)} %"


def _raised(subject: str, arm: ArmScores, source: ArmScores | None) -> str:
    """Say how an arm's accuracy moved from the source's, and whether that is more than chance."""
    if arm.gain is None:
        return _sentence(
            f"{subject} reached {words.with_interval(arm.accuracy, words.accuracy, ' %')}"
        )
    start = source.accuracy if source else None
    span = ""
    if start and arm.accuracy:
        span = f" from {words.accuracy(start.mean)} % to {words.accuracy(arm.accuracy.mean)} %"
    change = f"({words.with_interval(arm.gain, words.points, ' points')})"
    return _sentence(f"{subject} {_verb(arm.gain)}{span} {change}")


def _verb(gain: Interval) -> str:
    if gain.low > 0:
        return "raised accuracy"
    return "lowered accuracy" if gain.high < 0 else "changed accuracy by no clear amount,"


def _same_density(one: ArmScores, other: ArmScores) -> bool:
    if one.density is None or other.density is None:
        return False
    return math.isclose(one.density, other.density, rel_tol=0.01)


def _left_out(count: int) -> list[str]:
    return [f"The table holds {count} more."] if count > 0 else []


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
