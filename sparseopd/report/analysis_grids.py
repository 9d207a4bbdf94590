"""The tables of an analysis' page: figures beside nulls, the paper's rows, blocks, modules and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparseopd.analysis import Analysis
from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.paper import COLUMNS, PAPER, SOURCE, PaperRow, paper_rows
from sparseopd.masks.scope import BLOCKS
from sparseopd.report import words
from sparseopd.report.layout import rank as place_of
from sparseopd.report.measures import ALIKE, BEYOND, null, plain, present, rank, verdict
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.paper_words import SIDES, figures
from sparseopd.report.words import show

STABLE_RANK = "median_stable_rank"
PARTS = (
    ("Size", "", "share_of_size"),
    ("ΣΔ²", "", "share_of_energy"),
    ("‖Δ‖/‖W‖", "", "relative_norm"),
    ("Exactly", "0", "share_zero"),
    ("|Δ|", "≤ 1e-5", "share_le_1e-5"),
    ("Energy", "top 1 %", "coordinate_energy_top_1pct_pooled"),
    ("SVD", "top 16", "median_svd_energy_top16"),
    ("Stable", "rank", STABLE_RANK),
    ("Projection", "10 %", "median_projection_energy_10pct"),
    ("Principal", "10 %", "median_coverage_principal_10pct_alpha_0"),
    ("Low-mag", "10 %", "median_coverage_low_magnitude_10pct_alpha_0"),
)
"""Of blocks, modules and layers: the heading, what stands beneath it, and what groups call the figure."""
PAPER_NOTE = "Percent, but for the stable rank."
PUBLISHED_NOTE = f"{SOURCE}; its rows have no null."
HEADS = {"shuffled": "Shuffled", "gaussian": "Dense noise"}


def measures_table(analysis: Analysis, *, main: bool) -> PageTable:
    """Make the table of the main figures, or of all: observed, before rounding, nulls, verdict."""
    whole = analysis.whole
    kinds = [kind for kind in KINDS if whole.get(kind)]
    columns = [("Observed", "")]
    if whole["master"]:
        columns.append(("Before rounding", ""))
    columns += [(HEADS[kind], "mean ± sd") for kind in kinds]
    if kinds:
        columns.append(("Verdict", ""))
    lines: list[Line] = []
    for family, measures in present(whole, main=main).items():
        lines.append(Line(family))
        lines += [Line(one.title, _measured(one, analysis, kinds)) for one in measures]
    note = "Percent, ranks as counts. Spectra and geometry: medians over matrices."
    title = ("Main figures" if main else "All figures") + (" and their nulls" if kinds else "")
    return PageTable(title, "Figure", columns, lines, note, "whole.csv")


def paper_table(analysis: Analysis, *, published: bool) -> PageTable:
    """Make the update's rows in the paper's columns, with the paper's own ten beneath if wanted."""
    lines = [_paper_line(row, SIDES[row.side], own=published) for row in paper_rows(analysis)]
    title, corner = "In the paper's columns", "This update"
    if not published:
        return PageTable(title, corner, _paper_columns(), lines, PAPER_NOTE, "paper_row.csv")
    note = f"{PAPER_NOTE} {PUBLISHED_NOTE}"
    lines += _published()
    return PageTable(title, corner, _paper_columns(), lines, note, "paper_row.csv")


def runs_table(analyses: Sequence[Analysis]) -> PageTable:
    """Make one row an update, in the paper's columns, with the paper's own ten beneath."""
    rows = [paper_rows(one)[0] for one in analyses]
    lines = [_paper_line(row, row.name, own=True) for row in rows] + _published()
    note = f"The columns of the paper's table. {PAPER_NOTE} {PUBLISHED_NOTE}"
    return PageTable("The updates side by side", "Update", _paper_columns(), lines, note)


def parts_tables(analysis: Analysis) -> list[PageTable]:
    """Make the tables of blocks, of modules and, where there are any, of layers."""
    groups = analysis.groups
    noise = "; in small print, that of dense noise" if analysis.whole.get("gaussian") else ""
    note = f"Percent, but for the stable rank: observed{noise}."
    strong = " Bold: beyond rounding, among the figures that modules are judged by."
    blocks = sorted(groups["block"], key=BLOCKS.index)
    modules = sorted(groups["module"], key=place_of)
    return [
        _parts_table("By block", "Block", groups["block"], blocks, note),
        _parts_table(
            "By module",
            "Module",
            groups["module"],
            modules,
            note + (strong if analysis.module_verdicts else ""),
            analysis.module_verdicts,
        ),
        *(
            [_parts_table("By layer", "Layer", groups["layer"], list(groups["layer"]), note)]
            if groups["layer"]
            else []
        ),
    ]


def _measured(one: Any, analysis: Analysis, kinds: Sequence[str]) -> list[Cell]:
    whole = analysis.whole
    cells = [Cell(plain(one, whole["observed"]))]
    if whole["master"]:
        cells.append(Cell(plain(one, whole["master"])))
    for kind in kinds:
        mean, sd = null(one, analysis, kind)
        cells.append(Cell(f"{mean} ± {sd}" if sd else mean))
    if kinds:
        found = verdict(analysis, one.figure)
        cells.append(Cell(found, found=found == BEYOND) if found != ALIKE else _Muted(found))
    return cells


class _Muted(Cell):
    """A cell that says nothing new."""

    @property
    def tone(self) -> str:
        return "none"


def _paper_columns() -> list[tuple[str, str]]:
    return [(column.title, "") for column in COLUMNS]


def _published() -> list[Line]:
    return [Line("The paper's runs"), *(_paper_line(row, row.name) for row in PAPER)]


def _paper_line(row: PaperRow, name: str, *, own: bool = False) -> Line:
    return Line(name, [Cell(text) for text in figures(row)], own)


def _parts_table(
    title: str,
    corner: str,
    groups: dict[str, dict[str, Any]],
    names: Sequence[str],
    note: str,
    verdicts: dict[str, dict[str, dict[str, Any]]] | None = None,
) -> PageTable:
    lines = [Line(name, _part(groups[name], (verdicts or {}).get(name, {}))) for name in names]
    columns = [(head, beneath) for head, beneath, _ in PARTS]
    return PageTable(title, corner, columns, lines, note, "groups.csv")


def _part(sides: dict[str, Any], verdicts: dict[str, dict[str, Any]]) -> list[Cell]:
    structure = {seen["whole"] for seen in verdicts.values() if seen["structure"]}
    noise = sides.get("gaussian") or {}
    cells = []
    for *_, figure in PARTS:
        form = rank if figure == STABLE_RANK else words.percent
        value = sides["observed"].get(figure)
        small = noise.get(figure, {}).get("mean") if figure != "relative_norm" else None
        beneath = "" if small is None or value is None else form(small)
        cells.append(Cell(show(value, form), beneath, figure in structure))
    return cells
