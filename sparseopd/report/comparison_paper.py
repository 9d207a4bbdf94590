"""The paper's tables, with its numbers beside this comparison's: what is not measured is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.paper import COLUMNS, PAPER, SOURCE, PaperRow
from sparseopd.artifacts import Interval
from sparseopd.report import words
from sparseopd.report.comparison_arms import by_density, discovered, full, main, same_density
from sparseopd.report.comparison_optimizers import optimizers_table
from sparseopd.report.comparison_overlaps import mean_overlaps
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.paper_tables import MASK_TRAINING, OVERLAPS, MaskTraining, Overlap
from sparseopd.report.paper_words import SIDES, figures
from sparseopd.report.words import MISSING
from sparseopd.results import ArmResult, GeometryRow, OverlapRow, Results, Study

MARKS = {"above": "▲", "below": "▼"}
"""Beside a figure that the nulls do not explain: on which side of them it lies."""
MARKS_NOTE = "▲ and ▼: above or below what the nulls give, in all seeds or in as many as stated."
PAPERS = "The paper"


def paper_tables(results: Results) -> list[PageTable]:
    """Make the tables that this comparison has anything to set beside the paper's."""
    made = [
        geometry_table(results),
        training_table(results),
        optimizers_table(results),
        overlap_table(results),
    ]
    return [table for table in made if table is not None]


def geometry_table(results: Results) -> PageTable | None:
    """Make the paper's table: a row a pair and method, over seeds, with its nulls in small print."""
    lines: list[Line] = []
    for study in results.studies:
        rows = [_geometry_line(study, method) for method in methods(study)]
        if rows:
            lines += [Line(study.name), *rows]
    if not lines:
        return None
    lines.append(Line(PAPERS))
    lines += [Line(row.name, [Cell(text) for text in figures(row)]) for row in PAPER]
    note = (
        "Percent, but for the stable rank: means over seeds; in small print the same of shuffled changes and "
        f"of dense noise. {MARKS_NOTE} {SOURCE}; its rows have no null."
    )
    title = "Sparsity and geometry, beside nulls"
    return PageTable(title, "Update", _heads(), lines, note, "geometry.csv")


def sides_table(study: Study) -> PageTable | None:
    """Make one study's table of sparsity and geometry with every side in a row of its own."""
    lines: list[Line] = []
    for method in methods(study):
        lines.append(Line(method))
        for side, title in SIDES.items():
            rows = _rows(study, method, side)
            if rows:
                lines.append(Line(title, _side_cells(rows), own=side == "observed"))
    if not lines:
        return None
    note = (
        "Percent, but for the stable rank: means over seeds, in small print their range. "
        f"{MARKS_NOTE} Before rounding: from the float32 masters."
    )
    title = "Sparsity and geometry: every side"
    return PageTable(title, "Side", _heads(), lines, note, "geometry.csv")


def methods(study: Study) -> list[str]:
    """Return the methods whose updates were analysed, in their order."""
    return list(dict.fromkeys(row.method for row in study.geometry))


def training_table(results: Results) -> PageTable | None:
    """Make the table of mask training: full, the mask itself, another method's, random ones."""
    lines: list[Line] = []
    for study in results.studies:
        own = [_training_line(study, arm) for arm in trained_masks(study)]
        if own:
            lines += [Line(study.name), *own]
    if not lines:
        return None
    lines += [Line(PAPERS), *map(_published_training, MASK_TRAINING)]
    note = (
        "Accuracy in percent; here every arm at its own best lr, over seeds, with intervals. The paper: one "
        "seed, lr not retuned, masks of completed runs; the other method is RL."
    )
    columns = [
        ("Full", ""),
        ("OPD mask", ""),
        ("Other mask", "another method's"),
        ("Random", "as the OPD mask"),
        ("Random", "as the other mask"),
    ]
    return PageTable("Mask training", "Run", columns, lines, note, "mask_training.csv")


def overlap_table(results: Results) -> PageTable | None:
    """Make the table of overlaps: chance, null and observed, and back."""
    lines: list[Line] = []
    for study in results.studies:
        if study.overlaps:
            lines += [Line(study.name), *map(_overlap_line, mean_overlaps(study.overlaps))]
    if not lines:
        return None
    lines += [Line(PAPERS), *map(_published_overlap, OVERLAPS)]
    note = (
        "Percent. Observed: the share of A that lies in B. Chance: B's density. |W| null: the same share if "
        "B is drawn anew within every |W| quantile of every tensor. Back: A and B exchanged. Ours are means "
        "over seeds."
    )
    heads = ("Chance", "|W| null", "Observed")
    columns = [
        *((head, "A in B") for head in heads),
        *((head, "back") for head in heads),
        ("Jaccard", ""),
    ]
    title = "Overlap of supports and masks"
    return PageTable(title, "A, then B", columns, lines, note, "overlaps.csv")


def trained_masks(study: Study) -> list[ArmResult]:
    """Return the discovered masks that the table of mask training has a line for."""
    return [arm for arm in by_density(study).get("discovered", []) if arm.accuracy]


def training_arms(study: Study, arm: ArmResult) -> list[ArmResult | None]:
    """Return the arms of a line of mask training: full, own, other's, random as own, as other's."""
    masked = [one for one in study.arms if one.kind == "masked" and one.optimizer == "adamw"]
    foreign = [one for one in masked if one.found_on == "another method"]
    other = next((one for one in foreign if same_density(one, arm)), None)
    matched = any(same_density(one, mine) for one in foreign for mine in discovered(study))
    if foreign and not matched and arm is main(study):
        other = foreign[0]  # no line has its density, so it stands on the one that speaks for all
    beside = None if other is None else _random(study, other)
    return [full(study), arm, other, _random(study, arm), beside]


def _random(study: Study, of: ArmResult) -> ArmResult | None:
    """Return the random mask of as many coordinates: uniform, or else another random one."""
    for chosen in ("random", "random per tensor", "random by |W|"):
        for one in by_density(study).get(chosen, []):
            if same_density(one, of):
                return one
    return None


def _training_line(study: Study, arm: ArmResult) -> Line:
    name = f"at {words.density(arm.density or 0)} %"
    if arm.discovery_steps is not None:
        name += f", {arm.discovery_steps} steps of discovery"
    cells = []
    for place, one in enumerate(training_arms(study, arm)):
        density = "" if one is None or one.density is None or place == 1 else one.density
        beneath = f" at {words.density(density)} %" if density and place in (2, 4) else ""
        cells.append(_accuracy(one.accuracy if one else None, beneath))
    return Line(name, cells, own=True)


def _accuracy(value: Interval | None, beneath: str = "") -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(words.accuracy(value.mean), words.bracket(value, words.accuracy) + beneath)


def _published_training(row: MaskTraining) -> Line:
    values = (row.full, row.own, row.other, row.random, row.random_other)
    densities = ("", row.own_density, row.other_density, "", "")
    cells = [
        Cell(words.show(value, lambda x: f"{x:.2f}"), f"at {density}" if density else "")
        for value, density in zip(values, densities, strict=True)
    ]
    return Line(f"{row.run}: {row.measure}", cells)


def _overlap_line(row: OverlapRow) -> Line:
    shares = (
        *(row.chance, row.null, row.coverage),
        *(row.chance_back, row.null_back, row.coverage_back),
        row.jaccard,
    )
    cells = [Cell(words.show(share, words.percent)) for share in shares]
    return Line(f"{row.question}: {row.first}, {row.second} ({row.of})", cells, own=True)


def _published_overlap(row: Overlap) -> Line:
    shares = (row.chance, None, row.observed, row.chance_back, None, row.observed_back, None)
    cells = [Cell(words.show(share, lambda x: f"{x:.1f}")) for share in shares]
    return Line(f"{row.question}: {row.name}", cells)


def _heads() -> list[tuple[str, str]]:
    """Return the paper's headings on two lines each, so that ten columns fit a page."""
    parts = [re.split(r" (?=10 %|energy|SVD|rank)", column.title) for column in COLUMNS]
    return [(first, rest[0] if rest else "") for first, *rest in parts]


def _rows(study: Study, method: str, side: str) -> list[GeometryRow]:
    return [row for row in study.geometry if (row.method, row.side) == (method, side)]


def _geometry_line(study: Study, method: str) -> Line:
    means = {side: _mean_texts(_rows(study, method, side)) for side in SIDES}
    observed = _rows(study, method, "observed")
    cells = []
    for place, column in enumerate(COLUMNS):
        nulls = [means[kind][place] for kind in KINDS if _rows(study, method, kind)]
        mark = beyond_mark([row.beyond.get(column.key, "") for row in observed])
        text = f"{mark} {means['observed'][place]}".strip()
        cells.append(Cell(text, "/".join(nulls), bool(mark)))
    return Line(method, cells, own=True)


def _side_cells(rows: Sequence[GeometryRow]) -> list[Cell]:
    means, texts = _mean_texts(rows), [figures(_as_paper(_values(row))) for row in rows]
    cells = []
    for place, column in enumerate(COLUMNS):
        known = [row.values.get(column.key) for row in rows]
        order = sorted((v, texts[n][place]) for n, v in enumerate(known) if v is not None)
        ends = list(dict.fromkeys((order[0][1], order[-1][1]))) if order else []
        mark = beyond_mark([row.beyond.get(column.key, "") for row in rows])
        spread = "–".join(ends) if len(ends) == 2 else ""
        cells.append(Cell(f"{mark} {means[place]}".strip(), spread, bool(mark)))
    return cells


def beyond_mark(sides: Sequence[str]) -> str:
    """Mark on which side of the nulls a figure lies: ▲ or ▼, and in how many seeds if not in all."""
    for side, mark in MARKS.items():
        count = sides.count(side)
        if count and count == len(sides):
            return mark
        if count > len(sides) / 2:
            return f"{mark} {count}/{len(sides)}"
    return ""


def _values(row: GeometryRow) -> list[float | None]:
    return [row.values.get(column.key) for column in COLUMNS]


def _mean_texts(rows: Sequence[GeometryRow]) -> list[str]:
    """Write the means over the seeds that have each figure."""
    columns = list(zip(*map(_values, rows), strict=True)) or [()] * len(COLUMNS)
    known = [[value for value in column if value is not None] for column in columns]
    return figures(_as_paper([fmean(values) if values else None for values in known]))


def _as_paper(values: Sequence[float | None]) -> PaperRow:
    return PaperRow("", "", tuple(values))
