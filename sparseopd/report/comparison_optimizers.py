"""The paper's optimizer table beside this comparison's: accuracy, cos(m, g) and CV(√v)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from sparseopd.report import words
from sparseopd.report.comparison_arms import UNTRAINED, full
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.paper_tables import OPTIMIZERS, OptimizerRun
from sparseopd.report.words import MISSING
from sparseopd.results import ArmResult, Results, Study, TelemetryRow

COLUMNS = [
    ("lr", ""),
    ("Accuracy", "%"),
    ("cos(m, g)", "start"),
    ("cos(m, g)", "mean"),
    ("cos(m, g)", "least"),
    ("cos(m, g)", "end"),
    ("CV(√v)", "start"),
    ("CV(√v)", "mean"),
    ("CV(√v)", "end"),
]


def optimizers_table(results: Results) -> PageTable | None:
    """Make the table of optimizers; None where only one was used and nothing was seen of it."""
    lines: list[Line] = []
    for study in results.studies:
        own = _study_lines(study)
        if own:
            lines += [Line(study.name), *own]
    if not lines:
        return None
    lines += [Line("The paper"), *map(_published, OPTIMIZERS)]
    note = (
        "Here each optimizer at its own best lr; telemetry is a mean over seeds. The paper: one seed, one "
        "learning rate each; accuracy is the peak, in small print the final one."
    )
    return PageTable("Optimizers", "Optimizer", COLUMNS, lines, note, "optimizers.csv")


def compared_arms(study: Study) -> list[ArmResult]:
    """Return the arms of other optimizers, and before them their AdamW counterparts.

    Without others, the full arm alone where telemetry tells of it.
    """
    others = [arm for arm in study.arms if arm.optimizer != "adamw" and arm.kind not in UNTRAINED]
    if not others:
        whole = full(study)
        return [whole] if whole and seen(study, whole.optimizer, whole.lr) else []
    pairs = {_but_optimizer(arm) for arm in others}
    adam = [arm for arm in study.arms if arm.optimizer == "adamw" and _but_optimizer(arm) in pairs]
    return [*adam, *others]


def seen(study: Study, optimizer: str, lr: float | None) -> list[TelemetryRow]:
    """Return the telemetry of an optimizer at a learning rate, a row a seed."""
    return [row for row in study.telemetry if row.optimizer == optimizer and row.lr == lr]


def summary(rows: Sequence[TelemetryRow]) -> list[float | None]:
    """Return cos(m, g) at the start, mean, least and at the end; CV(√v) at the start, mean, end.

    Means over seeds; None where no seed has the figure.
    """
    cosines = [one for row in rows if (one := _known(row.cosine))]
    variations = [one for row in rows if (one := _known(row.variation))]
    return [
        *(_over_seeds(cosines, pick) for pick in (_first, fmean, min, _last)),
        *(_over_seeds(variations, pick) for pick in (_first, fmean, _last)),
    ]


def _study_lines(study: Study) -> list[Line]:
    arms = compared_arms(study)
    lines = [_arm_line(study, arm) for arm in arms]
    told = {(arm.optimizer, arm.lr) for arm in arms}
    # Telemetry of learning rates that no arm ended at still tells of its optimizer.
    for optimizer, lr in dict.fromkeys((row.optimizer, row.lr) for row in study.telemetry):
        if (optimizer, lr) not in told:
            figures = _telemetry(summary(seen(study, optimizer, lr)))
            name = f"{optimizer}, telemetry alone"
            lines.append(Line(name, [Cell(words.rate(lr)), Cell(MISSING), *figures], own=True))
    return lines


def _arm_line(study: Study, arm: ArmResult) -> Line:
    lr = MISSING if arm.lr is None else words.rate(arm.lr)
    small = words.bracket(arm.accuracy, words.accuracy) if arm.accuracy else ""
    mean = words.show(arm.accuracy.mean if arm.accuracy else None, words.accuracy)
    figures = _telemetry(summary(seen(study, arm.optimizer, arm.lr)))
    name = f"{arm.name} ({arm.optimizer})"
    return Line(name, [Cell(lr), Cell(mean, small), *figures], own=True)


def _published(row: OptimizerRun) -> Line:
    accuracy = Cell(f"{row.peak:.2f}", f"{row.final:.2f}")
    figures = _telemetry([*(row.cosine or [None] * 4), *(row.variation or [None] * 3)])
    return Line(row.optimizer, [Cell(words.rate(row.lr)), accuracy, *figures])


def _telemetry(values: Sequence[float | None]) -> list[Cell]:
    cosines = [Cell(words.show(value, lambda x: words.signed(x, ".3f"))) for value in values[:4]]
    return [*cosines, *(Cell(words.show(value, lambda x: f"{x:.2f}")) for value in values[4:])]


def _but_optimizer(arm: ArmResult) -> tuple[object, ...]:
    return (arm.kind, arm.chosen, arm.found_on, arm.density, arm.discovery_steps, arm.reordered)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _first(values: list[float]) -> float:
    return values[0]


def _last(values: list[float]) -> float:
    return values[-1]


def _over_seeds(runs: Sequence[list[float]], pick: Callable[[list[float]], float]) -> float | None:
    return fmean(map(pick, runs)) if runs else None
