"""The answer of a comparison in plain sentences, honest about what it leaves open.

results → comparison_answer   all of it, for a terminal or a log
results → overall             the count over studies
study   → study_answer        does it match full, does it beat random, how small, how short
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparseopd.artifacts import Interval
from sparseopd.report import words
from sparseopd.report.comparison_arms import (
    against_full,
    against_random,
    by_density,
    by_steps,
    discovered,
    full,
    main,
    same_density,
    source,
)
from sparseopd.results import ArmResult, Results, Study, Verdict

LIMIT = 48
"""Letters of a name in a sentence."""
NOTHING = "This comparison holds no study."
NO_ARM = "No arm was compared."
NO_MASK = "No arm trained a discovered mask, so nothing can be said of sparse training."
NO_GRADER = "No grader applies to these prompts, so nothing can be said of accuracy."
NO_KL = "KL to the teacher was not measured either."
NO_FULL = "There is no test against full training, so whether it is matched is unknown."
NO_RANDOM = (
    "There is no test against a random mask of as many coordinates, "
    "so whether the choice of coordinates matters is unknown."
)
NO_CLEAR_GAIN = (
    "Full training's gain is not clearly above zero, so matching it would mean little here."
)
_MATCHED = {
    "equal": "matches full training",
    "lower": "falls short",
    "higher": "does better",
    "not settled": "is not settled",
}
_CHOICE = {
    "better": "beats a random one of as many coordinates",
    "worse": "does worse",
    "not settled": "is not settled",
}
"""What a reading is called; the first is the question."""


def comparison_answer(results: Results) -> list[str]:
    """Say what the comparison found: over all studies, then of each; at least one sentence."""
    if not results.studies:
        return [NOTHING]
    if len(results.studies) == 1:
        return study_answer(results.studies[0])
    told = overall(results)
    for study in results.studies:
        first, *rest = study_answer(study)
        told += [f"{words.shorten(study.name, LIMIT)}: {first}", *rest]
    return told


def overall(results: Results) -> list[str]:
    """Count over the studies how their main masks did against full training and random masks.

    Nothing for fewer than two studies, or where no study tests either.
    """
    if len(results.studies) < 2:
        return []
    arms = [(study, main(study)) for study in results.studies]
    told = [
        _counted(
            "The sparse student",
            _MATCHED,
            [(study, against_full(arm and arm.equivalence)) for study, arm in arms],
        ),
        _counted(
            "Its mask",
            _CHOICE,
            [(study, against_random(arm and arm.superiority)) for study, arm in arms],
        ),
    ]
    return [sentence for sentence in told if sentence]


def study_answer(study: Study) -> list[str]:
    """Say of one study whether the sparse student matches full training, and what follows from it."""
    if not study.arms:
        return [NO_ARM]
    if not any(arm.accuracy for arm in study.arms):
        return _without_grader(study)
    arm = main(study)
    if arm is None:
        return [NO_MASK, *_full_gain(study)]
    return [
        _against_full(arm),
        _against_random(study, arm),
        *_full_gain(study),
        *_others(study),
        *_how_small(study),
        *_how_short(study),
    ]


def p_text(p: float) -> str:
    """Write a p value on one line: p = 0.012, p < 0.001."""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return text.replace(" ", "\u00a0")


def _counted(subject: str, phrases: dict[str, str], found: Sequence[tuple[Study, str]]) -> str:
    tested = [(study, reading) for study, reading in found if reading]
    if not tested:
        return ""
    clauses = []
    for place, (reading, phrase) in enumerate(phrases.items()):
        names = [words.shorten(study.name, LIMIT) for study, own in tested if own == reading]
        if names or not place:
            count = f"{len(names) or 'none'}{'' if place else f' of {len(tested)} studies'}"
            listed = f" ({', '.join(names)})" if names else ""
            clauses.append(f"{phrase} in {count}{listed}")
    return f"{subject} {'; '.join(clauses)}."


def _against_full(arm: ArmResult) -> str:
    """Say whether an arm matches full training, by how much it differs, and what it kept."""
    reading, verdict = against_full(arm.equivalence), arm.equivalence
    kept = f"it kept {_whole(arm.kept, words.kept, ' %')} of full training's gain"
    if verdict is None:
        reached = f"reached {_whole(arm.accuracy, words.accuracy, ' %')}"
        return f"{_subject(arm)} {reached}{f'; {kept}' if arm.kept else ''}. {NO_FULL}"
    lead = {
        "equal": "matches full training",
        "lower": "falls short of full training",
        "higher": "does better than full training",
        "not settled": "is not settled against full training: neither shown equal nor different",
    }[reading]
    facts = [_difference(verdict), *([] if verdict.margin is None else [_within(verdict)])]
    if reading in ("equal", "not settled"):  # p speaks of equivalence, not of being lower
        facts.append(f"{_adjusted(verdict)} for equality")
    text = f"{_subject(arm)} {lead} ({', '.join(facts)})"
    return f"{text}; {kept}." if arm.kept else f"{text}."


def _within(verdict: Verdict) -> str:
    margin = words.density(verdict.margin or 0.0)
    return f"margin ±{margin} points"


def _against_random(study: Study, arm: ArmResult) -> str:
    """Say whether an arm's mask beats a random one, and whether that one too would do."""
    verdict = arm.superiority
    if verdict is None:
        return NO_RANDOM
    reading = against_random(verdict)
    lead = {
        "better": "Its mask beats",
        "worse": "Its mask does worse than",
        "not settled": "It is not settled whether its mask beats",
    }[reading]
    p = "" if reading == "worse" else f", {_adjusted(verdict)}"  # p speaks of being better
    text = f"{lead} “{words.shorten(verdict.against, LIMIT)}” ({_difference(verdict)}{p})"
    also = {one.name: one for one in study.arms}.get(verdict.against)
    if also is not None and against_full(also.equivalence) == "equal":
        text += "; that random mask, too, matches full training"
    return f"{text}."


def _full_gain(study: Study) -> list[str]:
    whole, start = full(study), source(study)
    if whole is None or whole.gain is None:
        return []
    span = ""
    if start and start.accuracy and whole.accuracy:
        ends = (words.accuracy(one.accuracy.mean) for one in (start, whole) if one.accuracy)
        span = f"from {' % to '.join(ends)} % "
    gained = _whole(whole.gain, words.points, " points")
    told = [f"Full training moved accuracy {span}({gained})."]
    return told if whole.gain.low > 0 else [*told, NO_CLEAR_GAIN]


def _others(study: Study) -> list[str]:
    """Count how all discovered masks did, where there are several."""
    arms = discovered(study)
    if len(arms) < 2:
        return []
    clauses = [
        _tally([against_full(arm.equivalence) for arm in arms], "equal", "match full training"),
        _tally([against_random(arm.superiority) for arm in arms], "better", "beat a random mask"),
    ]
    told = [clause for clause in clauses if clause]
    return [f"Of the discovered masks, {' and '.join(told)}."] if told else []


def _tally(readings: Sequence[str], wanted: str, phrase: str) -> str:
    tested = [reading for reading in readings if reading]
    return f"{tested.count(wanted)} of {len(tested)} {phrase}" if tested else ""


def _how_small(study: Study) -> list[str]:
    arms = by_density(study).get("discovered", [])
    return _least(arms, "How small", "density", lambda arm: f"{words.density(arm.density or 0)} %")


def _how_short(study: Study) -> list[str]:
    told = []
    for density, arms in by_steps(study).items():
        question = f"How short, at {words.density(density)} %"
        told += _least(arms, question, "discovery", lambda arm: f"{arm.discovery_steps} steps")
    return told


def _least(
    arms: Sequence[ArmResult], question: str, noun: str, write: Callable[[ArmResult], str]
) -> list[str]:
    """Say which of arms that grow is the least that still equals full, and how lesser ones do."""
    tested = [(arm, against_full(arm.equivalence)) for arm in arms if arm.equivalence]
    if len(tested) < 2:
        return []
    at = next((place for place, (_, reading) in enumerate(tested) if reading == "equal"), None)
    if at is None:
        listed = ", ".join(f"{write(arm)} {reading}" for arm, reading in tested)
        return [f"{question}: no tested {noun} is shown equal to full training ({listed})."]
    text = (
        f"{question}: {write(tested[at][0])} is the least tested {noun} that matches full training"
    )
    lesser = ", ".join(f"{write(arm)} {reading}" for arm, reading in tested[:at])
    greater = [f"{write(arm)} {reading}" for arm, reading in tested[at:] if reading != "equal"]
    text += f" ({lesser})" if lesser else f", and no lesser {noun} was tested"
    # Equivalence need not be monotone; the reader must not think that all above it are equal.
    text += f"; of greater ones, {', '.join(greater)}" if greater else ""
    return [f"{text}."]


def _without_grader(study: Study) -> list[str]:
    measured = [arm for arm in study.arms if arm.kl and arm.kind != "teacher"]
    if not measured:
        return [NO_GRADER, NO_KL]
    shown = [arm for arm in (source(study), full(study), main(study)) if arm in measured]
    rest = [arm for arm in measured if arm not in shown and _is_its_control(arm, main(study))]
    listed = "; ".join(
        f"{words.shorten(arm.name, LIMIT)} {_whole(arm.kl, words.scientific)}"
        for arm in (shown + rest)[:5] or measured[:5]
        if arm is not None
    )
    return [f"KL to the teacher, in nats a token: {listed}.", NO_GRADER]


def _is_its_control(arm: ArmResult, of: ArmResult | None) -> bool:
    return of is not None and arm.chosen.startswith("random") and same_density(arm, of)


def _subject(arm: ArmResult) -> str:
    share = f"{words.density(arm.density)} % of the coordinates" if arm.density else "a mask"
    length = "" if arm.discovery_steps is None else f", found in {arm.discovery_steps} steps,"
    return f"Training {share}{length}"


def _difference(verdict: Verdict) -> str:
    return _whole(verdict.difference, words.points, " points")


def _adjusted(verdict: Verdict) -> str:
    return f"adjusted {p_text(verdict.adjusted)}"


def _whole(interval: Interval | None, form: words.Form, unit: str = "") -> str:
    """Write a figure with its interval, whose ends a line does not part."""
    return words.with_interval(interval, form, unit).replace(", ", ",\u00a0")
