"""Tables in Markdown of what a comparison found: README's, and those of EXPERIMENTS.md."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from sparseopd.analysis.paper import COLUMNS
from sparseopd.artifacts import Interval
from sparseopd.report.comparison_overlaps import mean_overlaps
from sparseopd.results import Results, Study, Verdict

MARKS = {"above": " ▲", "below": " ▼"}
"""Of figures that neither null explains, in all seeds."""


def table(results: Results) -> str:
    """README's table: on every pair, the mask beside full training and a random mask."""
    head = (
        "pair", "source", "full OPD", "discovered 10 %", "random 10 %",
        "discovered − full", "discovered − random", "teacher",
    )  # fmt: skip
    rows = []
    for study in results.studies:
        found, random = study.arm("discovered 10 %"), study.arm("random per tensor 10 %")
        full = study.arm("full OPD")
        rows.append(
            (
                study.name,
                _percent(study.arm("source").accuracy),
                _percent(full.accuracy),
                f"{_percent(found.accuracy)} ({_percent(found.kept)})",
                f"{_percent(random.accuracy)} ({_percent(random.kept)})",
                _against_full(found.equivalence),
                _against_random(found.superiority),
                _percent(study.arm("teacher").accuracy),
            )
        )
    return _table(head, rows)


def answers(results: Results) -> str:
    """All tables of EXPERIMENTS.md, each under a line that says what it is."""
    parts = []
    for study in results.studies:
        parts += [f"**{study.name}** ({study.setting}): every arm", _arms(study)]
    for study in results.studies:
        if study.geometry:
            parts += [f"**{study.name}**: sparsity and geometry, percent", _geometry(study)]
        if study.overlaps:
            parts += [f"**{study.name}**: overlap of supports, percent", _overlaps(study)]
        if study.settling:
            parts += [
                f"**{study.name}**: share of the mask that the last one has",
                _settling(study),
            ]
        if study.telemetry:
            parts += [f"**{study.name}**: what optimizers saw", _telemetry(study)]
    return "\n\n".join(parts)


def _arms(study: Study) -> str:
    head = (
        "arm", "k", "lr", "accuracy", "gain kept", "− full", "− random", "KL to teacher", "forgetting",
    )  # fmt: skip
    rows = [
        (
            arm.name,
            "–" if arm.k is None else f"{arm.k:,}",
            "–" if arm.lr is None else f"{arm.lr:g}" + ("" if arm.bracketed else " (edge)"),
            _interval(arm.accuracy),
            _interval(arm.kept),
            _against_full(arm.equivalence),
            _against_random(arm.superiority),
            "–" if arm.kl is None else f"{arm.kl.mean:.3f}",
            "–" if arm.forgetting is None else f"{arm.forgetting.mean:.3f}",
        )
        for arm in study.arms
    ]
    return _table(head, rows)


def _geometry(study: Study) -> str:
    """Every method's figures as compared in bfloat16, with those of shuffled changes and of noise."""
    rows = []
    for method in dict.fromkeys(row.method for row in study.geometry):
        own = [row for row in study.geometry if row.method == method]
        cells = []
        for column in COLUMNS:
            mean = {
                side: _mean(row.values[column.key] for row in own if row.side == side)
                for side in ("observed", "shuffled", "gaussian")
            }
            marks = {row.beyond.get(column.key, "") for row in own if row.side == "observed"}
            mark = MARKS.get(marks.pop(), "") if len(marks) == 1 else ""
            cells.append(f"{mean['observed']}{mark} ({mean['shuffled']}/{mean['gaussian']})")
        rows.append((method, *cells))
    return _table(("method", *(column.title for column in COLUMNS)), rows)


def _overlaps(study: Study) -> str:
    rows = [
        (
            row.of, row.first, row.second,
            f"{_share([row.chance])} → {_share([row.coverage])}", _share([row.null]),
            f"{_share([row.chance_back])} → {_share([row.coverage_back])}", _share([row.null_back]),
        )
        for row in mean_overlaps(study.overlaps)
    ]  # fmt: skip
    return _table(("of", "A", "B", "A in B", "null", "B in A", "null"), rows)


def _settling(study: Study) -> str:
    rows = []
    for steps in dict.fromkeys(row.steps for row in study.settling):
        own = [row for row in study.settling if row.steps == steps]
        coverage, null = (row.coverage for row in own), (row.null for row in own)
        rows.append((str(steps), _share(coverage), _share(null)))
    return _table(("steps", "coverage", "null"), rows)


def _telemetry(study: Study) -> str:
    rows = []
    for row in study.telemetry:
        cosine = [value for value in row.cosine if value is not None]
        spread = [value for value in row.variation if value is not None]
        rows.append(
            (
                row.optimizer,
                f"{row.lr:g}",
                str(row.seed),
                f"{cosine[0]:.2f} → {cosine[-1]:.2f} (mean {fmean(cosine):.2f})" if cosine else "–",
                f"{spread[0]:.2f} → {spread[-1]:.2f} (mean {fmean(spread):.2f})" if spread else "–",
            )
        )
    return _table(("optimizer", "lr", "seed", "cos(m, g)", "CV(√v)"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in escaped)])


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.mean:.1f}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{100 * interval.mean:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _against_full(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    difference = verdict.difference
    apart = "higher" if difference.low > 0 else "lower" if difference.high < 0 else "not settled"
    return f"{_points(difference)}, {'equivalent' if verdict.found else apart}"


def _against_random(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    words = "better" if verdict.found else f"not shown, p {verdict.adjusted:.2g}"
    return f"{_points(verdict.difference)}, {words}"


def _points(difference: Interval) -> str:
    mean, low, high = (100 * one for one in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _share(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * fmean(known):.1f}" if known else "–"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3g}" if known else "–"
