"""An analysis for the terminal, within 80 columns: what it comes to, then the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparseopd.analysis import Analysis
from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.paper import PaperRow, paper_rows
from sparseopd.masks.scope import BLOCKS
from sparseopd.report import words
from sparseopd.report.measures import (
    ALIKE,
    BEYOND,
    MISSING,
    Measure,
    drawn,
    extent,
    null,
    plain,
    present,
    rank,
    stored,
    verdict,
)
from sparseopd.report.paper_words import HEADINGS, SIDES, figures
from sparseopd.report.table import bare_table
from sparseopd.report.words import clean, show

STYLES = {BEYOND: "bold", ALIKE: "dim", MISSING: "dim"}


def analysis_tables(analyses: Sequence[Analysis]) -> list[RenderableType]:
    """Make what the terminal shows of one update or several; nothing is wider than 80 columns.

    Of each: the findings, the dtypes, the main figures beside their nulls, the blocks, and the paper's
    table row. Several begin with their rows of the paper's table.
    """
    if len(analyses) == 1:
        return _parts(analyses[0])
    shown: list[RenderableType] = [_paper_table([paper_rows(one)[0] for one in analyses], "Update")]
    for one in analyses:
        shown += [Text(clean(one.name), style="bold", overflow="fold"), *_parts(one)]
    return shown


def _parts(analysis: Analysis) -> list[RenderableType]:
    parts: list[RenderableType] = [_findings(analysis), _facts(analysis)]
    if present(analysis.whole, main=True):
        parts.append(_main_table(analysis))
    parts.append(_block_table(analysis))
    parts.append(_paper_table(paper_rows(analysis), "In the paper's columns", by_side=True))
    return parts


def _findings(analysis: Analysis) -> RenderableType:
    """The first sentence stands out; a sentence each line."""
    first, *rest = (Text(clean(sentence), overflow="fold") for sentence in analysis.findings)
    first.stylize("bold")
    return Group(first, *rest)


def _facts(analysis: Analysis) -> Text:
    lines = [
        f"Δ = {clean(analysis.tuned)} − {clean(analysis.base)}",
        f"{extent(analysis)}; {drawn(analysis)}",
        stored(analysis),
    ]
    return Text("\n".join(lines), style="dim", overflow="fold")


def _main_table(analysis: Analysis) -> Table:
    """Percent but for ranks; columns that no figure fills are left out."""
    whole = analysis.whole
    kinds = [kind for kind in KINDS if whole.get(kind)]
    table = _table("%, ranks as counts", 18, _headings(analysis, kinds))
    if kinds:
        table.add_column("Verdict", no_wrap=True)
    for measures in present(whole, main=True).values():
        for one in measures:
            table.add_row(one.title, *_cells(one, analysis, kinds))
        table.add_section()
    return table


def _headings(analysis: Analysis, kinds: list[str]) -> list[str]:
    """Nulls as mean ± standard deviation over the draws."""
    titles = {"shuffled": "Shuffled\n± sd", "gaussian": "Dense noise\n± sd"}
    before = ["Before\nrounding"] if analysis.whole["master"] else []
    return ["Observed", *before, *(titles[kind] for kind in kinds)]


def _cells(one: Measure, analysis: Analysis, kinds: list[str]) -> list[Text]:
    whole = analysis.whole
    cells = [Text(plain(one, whole["observed"]))]
    if whole["master"]:
        cells.append(Text(plain(one, whole["master"])))
    for kind in kinds:
        mean, sd = null(one, analysis, kind)
        cells.append(Text(mean).append(f"±{sd}" if sd else "", style="dim"))
    if kinds:
        found = verdict(analysis, one.figure)
        cells.append(Text(found, style=STYLES.get(found, "")))
    return cells


def _block_table(analysis: Analysis) -> Table:
    groups = analysis.groups["block"]
    noisy = bool(analysis.whole.get("gaussian"))
    headings = [*("Size\n%", "ΣΔ²\n%", "‖Δ‖/‖W‖\n%", "|Δ|≤1e-5\n%"), *["noise\n%"] * noisy]
    table = _table("Block", 9, [*headings, "Top-16\nSVD %", "Stable\nrank"])
    for name in sorted(groups, key=BLOCKS.index):
        table.add_row(name, *_block_cells(groups[name], noisy=noisy))
    return table


def _block_cells(sides: dict[str, Any], *, noisy: bool) -> list[str]:
    observed, noise = sides["observed"], sides.get("gaussian") or {}
    percents = ["share_of_size", "share_of_energy", "relative_norm", "share_le_1e-5"]
    cells = [show(observed.get(name), words.percent) for name in percents]
    if noisy:
        cells.append(show(noise.get("share_le_1e-5", {}).get("mean"), words.percent))
    top, stable = (observed.get(f"median_{name}") for name in ("svd_energy_top16", "stable_rank"))
    return [*cells, show(top, words.percent), show(stable, rank)]


def _paper_table(rows: Sequence[PaperRow], corner: str, *, by_side: bool = False) -> Table:
    """The paper's ten columns: percent, but for the stable rank."""
    table = _table(corner, 8, HEADINGS)  # "rounding" is the longest word that must not break
    for row in rows:
        name = SIDES[row.side] if by_side else row.name
        table.add_row(Text(words.shorten(name, 40)), *figures(row))
    return table


def _table(corner: str, min_width: int, headings: Sequence[str]) -> Table:
    """Make a table whose columns stand as close as ten of them need in 80."""
    table = bare_table(corner, min_width)
    table.padding = (0, 0, 0, 0)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
