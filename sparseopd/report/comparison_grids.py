"""The tables of a comparison's page: every arm's scores, what else it does, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparseopd.artifacts import Interval
from sparseopd.report import words
from sparseopd.report.comparison_answer import p_text
from sparseopd.report.comparison_arms import (
    against_full,
    against_random,
    full,
    grouped,
    main,
)
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.words import MISSING
from sparseopd.results import ArmResult, Costs, Results, Study, Verdict

FEW = 4
"""Seeds whose figures are all listed."""
EDGE = "‡"
"""Behind a learning rate that no worse one brackets on both sides."""
SCORES_NOTE = "Percent and points, with intervals over prompts and seeds."
TESTS_NOTE = (
    "Equal, lower, higher, not settled: the test of equivalence to full training within its margin. "
    "Better, worse, not settled: the test of superiority to the random mask of as many coordinates. "
    "p after Holm's correction over all arms of the study."
)


@dataclass(frozen=True)
class _Column:
    """A column of the page: its heading, its unit, and its cell of an arm."""

    title: str
    unit: str
    cell: Callable[[ArmResult], Cell]


def studies_table(results: Results) -> PageTable:
    """Make the table of studies side by side: full training, the main mask, and what is found of it."""
    lines = []
    for study in results.studies:
        arm = main(study)
        if arm is not None:
            lines.append(Line(study.name, _at_a_glance(study, arm)))
    columns = [
        ("Against full", "points"),
        ("Against random", "points"),
        ("Full", "accuracy, %"),
        ("Mask", "accuracy, %"),
        ("Trained", "% of all"),
        ("Gain kept", "% of full's"),
    ]
    note = "The main mask of each study; its other arms are below."
    return PageTable("The studies side by side", "Study", columns, lines, note, "arms.csv")


def scores_table(study: Study) -> PageTable:
    """Make the table of how well every arm did, and what the tests say; empty columns left out.

    It has no lines where nothing was graded.
    """
    columns = [
        _TRAINED,
        _RATE,
        _Column("Accuracy", "%", lambda arm: _interval(arm.accuracy, words.accuracy)),
        _Column("By seed", "%", _seeds),
        _Column("Gain", "points", lambda arm: _interval(arm.gain, words.points)),
        _Column("Gain kept", "% of full's", lambda arm: _interval(arm.kept, words.kept)),
        _Column("Against full", "points", _equivalence),
        _Column("Against random", "points", _superiority),
    ]
    tested = any(arm.equivalence or arm.superiority for arm in study.arms)
    notes = [SCORES_NOTE, *[TESTS_NOTE] * tested, _edge_note(study)]
    table = _table("All arms: accuracy", columns, study, " ".join(notes), "arms.csv")
    return table if _graded(study) else replace(table, lines=[])


def behaviour_table(study: Study) -> PageTable:
    """Make the table of what else an arm does: KL, forgetting, pass@k, agreement, lengths."""
    ks = sorted({k for arm in study.arms for k in arm.pass_at if k != "1"}, key=_as_number)
    plain = [] if _graded(study) else [_TRAINED, _RATE]
    columns = [
        *plain,
        _Column("KL to teacher", "nats a token", lambda arm: _interval(arm.kl, words.scientific)),
        _Column(
            "Forgetting", "nats a token", lambda arm: _interval(arm.forgetting, words.scientific)
        ),
        *(_Column(f"pass@{k}", "%", _pass_at(k)) for k in ks),
        _Column("Agree, 1e-5", "% of weights", _agreement("1e-05")),
        _Column("Agree, 1e-4", "% of weights", _agreement("1e-04")),
        _Column("Truncated", "%", lambda arm: _mean(arm, "truncated", words.accuracy)),
        _Column("Tokens", "mean", lambda arm: _mean(arm, "mean_tokens", lambda x: f"{x:.1f}")),
    ]
    note = (
        "KL(arm ‖ teacher) on the arm's own completions. Forgetting: KL(source ‖ arm) on the source's "
        "completions of another task's prompts. Agreement: weights within 1e-5 or 1e-4 of the full run's."
    )
    if plain:
        return _table("All arms", columns, study, f"{note} {_edge_note(study)}", "arms.csv")
    return _table("All arms: what else they do", columns, study, note, "arms.csv")


def costs_table(study: Study) -> PageTable:
    """Make the table of costs, each also as a share of full training's."""
    whole = full(study)
    base = whole.costs if whole else Costs()
    columns = [
        _Column("Time", "one run", _cost("seconds", words.duration, base)),
        _Column("Trained", "coordinates", _cost("trainable", lambda n: f"{n:,.0f}", base)),
        _Column("State", "optimizer, masters", _cost("state_bytes", size, base)),
        _Column("Peak memory", "estimated", _cost("peak_bytes", size, base)),
        _Column("Shipped", "file", _cost("shipped_bytes", size, base)),
    ]
    note = "Small print: as a multiple of full training." if whole else ""
    if any(arm.costs.seconds is not None for arm in study.arms):
        note += " Times: medians of the runs' training by the wall clock."
    return _table("Costs", columns, study, note.strip(), "costs.csv")


def size(count: float) -> str:
    """Write a number of bytes: 512 B, 1.25 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{words.scientific(count)} {unit}"


def seeds_text(values: Sequence[float], form: words.Form) -> str:
    """List a few seeds' figures, or the ends of many."""
    if len(values) <= FEW:
        return " · ".join(form(value) for value in values)
    return f"{form(min(values))} to {form(max(values))} ({len(values)})"


def _table(title: str, columns: Sequence[_Column], study: Study, note: str, csv: str) -> PageTable:
    """Lay out all arms by group; columns that no arm fills, and then arms without any, are dropped."""
    kept = [one for one in columns if any(one.cell(arm).text != MISSING for arm in study.arms)]
    lines: list[Line] = []
    groups = grouped(study)
    for heading, arms in groups.items():
        rows = [Line(arm.name, [column.cell(arm) for column in kept]) for arm in arms]
        rows = [row for row in rows if any(cell.text != MISSING for cell in row.cells)]
        if rows:
            lines += [Line(heading), *rows] if len(groups) > 1 else rows
    return PageTable(
        title, "Arm", [(one.title, one.unit) for one in kept], lines if kept else [], note, csv
    )


def _at_a_glance(study: Study, arm: ArmResult) -> list[Cell]:
    whole = full(study)
    return [
        _equivalence(arm),
        _superiority(arm),
        _interval(whole.accuracy if whole else None, words.accuracy),
        _interval(arm.accuracy, words.accuracy),
        _trained(arm),
        _interval(arm.kept, words.kept),
    ]


def _interval(value: Interval | None, form: words.Form) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(words.show(value.mean, form), words.bracket(value, form))


def _trained(arm: ArmResult) -> Cell:
    if arm.density is not None:
        return Cell(words.density(arm.density))
    return Cell("100" if arm.kind in ("full", "contrast") else MISSING)


def _rate(arm: ArmResult) -> Cell:
    if arm.lr is None:
        return Cell(MISSING)
    return Cell(words.rate(arm.lr) + ("" if arm.bracketed else EDGE))


_TRAINED = _Column("Trained", "% of all", _trained)
_RATE = _Column("lr", "best", _rate)


def _graded(study: Study) -> bool:
    return any(arm.accuracy for arm in study.arms)


def _edge_note(study: Study) -> str:
    edge = any(not arm.bracketed for arm in study.arms if arm.lr is not None)
    text = "Learning rates are each arm's own best on the validation split"
    return f"{text}; {EDGE}: the best lies at the end of those tried." if edge else f"{text}."


def _seeds(arm: ArmResult) -> Cell:
    values = [one.accuracy for one in arm.seeds if one.accuracy is not None]
    return Cell(seeds_text(values, words.accuracy) if values else MISSING)


def _equivalence(arm: ArmResult) -> Cell:
    reading = against_full(arm.equivalence)
    return _verdict(reading, arm.equivalence, found=reading == "equal")


def _superiority(arm: ArmResult) -> Cell:
    reading = against_random(arm.superiority)
    return _verdict(reading, arm.superiority, found=reading == "better")


def _verdict(reading: str, verdict: Verdict | None, *, found: bool) -> Cell:
    if verdict is None:
        return Cell(MISSING)
    difference = words.with_interval(verdict.difference, words.points)
    return Cell(reading, f"{difference}, {p_text(verdict.adjusted)}", found)


def _pass_at(k: str) -> Callable[[ArmResult], Cell]:
    return lambda arm: _interval(arm.pass_at.get(k), words.accuracy)


def _agreement(key: str) -> Callable[[ArmResult], Cell]:
    def cell(arm: ArmResult) -> Cell:
        return _over([one.agreement[key] for one in arm.seeds if key in one.agreement])

    return cell


def _over(values: Sequence[float]) -> Cell:
    """Write a mean, with the range over seeds beneath it where it has one."""
    if not values:
        return Cell(MISSING)
    low, high = words.percent(min(values)), words.percent(max(values))
    return Cell(words.percent(sum(values) / len(values)), "" if low == high else f"{low} to {high}")


def _mean(arm: ArmResult, field: str, form: words.Form) -> Cell:
    # No tokens at all: lengths were not measured.
    values = [getattr(one, field) for one in arm.seeds if one.mean_tokens]
    return Cell(words.show(sum(values) / len(values), form) if values else MISSING)


def _cost(field: str, form: words.Form, base: Costs) -> Callable[[ArmResult], Cell]:
    def cell(arm: ArmResult) -> Cell:
        value, whole = getattr(arm.costs, field), getattr(base, field)
        if value is None:
            return Cell(MISSING)
        return Cell(form(value), f"{words.scientific(value / whole)} ×" if whole else "")

    return cell


def _as_number(text: str) -> tuple[float, str]:
    return (float(text) if text.isdigit() else float("inf"), text)
