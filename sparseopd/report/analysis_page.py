"""The page of an analysis: one file that shows an update, or several, beside their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparseopd.analysis import Analysis
from sparseopd.report.analysis_figures import draw_analysis
from sparseopd.report.analysis_grids import measures_table, paper_table, parts_tables, runs_table
from sparseopd.report.drawings import Drawing
from sparseopd.report.measures import drawn, extent, stored
from sparseopd.report.page_table import PageTable
from sparseopd.report.templates import environment, value_text, write_page
from sparseopd.report.words import duration


@dataclass(frozen=True)
class Section:
    """What the page shows of one update."""

    key: str
    name: str
    folder: str
    """What stands before the names of its CSV files."""
    findings: list[str]
    facts: list[tuple[str, str]]
    main: PageTable
    every: PageTable
    drawings: list[Drawing]
    paper: PageTable
    parts: list[PageTable]
    settings: list[tuple[str, str]]


def write_analysis(
    analyses: Sequence[Analysis],
    path: Path,
    *,
    title: str,
    command: str,
    more: Sequence[Drawing] = (),
) -> None:
    """Write the page on `analyses` to `path`, whole or not at all.

    `command` is shown as what reproduces it; `more` are figures of all of them, such as overlaps or the
    course of a run. CSV files are named as `tables.write_tables` names them: beside the page, or for
    several updates in a folder of each one's name. The same arguments give the same bytes. Raises
    `RunFolderError` if the file cannot be written, `ValueError` if there is no analysis.
    """
    if not analyses:
        raise ValueError("a page needs at least one analysis, received none")
    write_page(path, render(analyses, title=title, command=command, more=more))


def render(
    analyses: Sequence[Analysis], *, title: str, command: str, more: Sequence[Drawing] = ()
) -> str:
    """Return the page as HTML text."""
    alone = len(analyses) == 1
    sections = [_section(one, f"a{number}", alone=alone) for number, one in enumerate(analyses, 1)]
    template = environment().get_template("analysis.html.j2")
    return template.render(
        title=title,
        command=command,
        sections=sections,
        runs=None if alone else runs_table(analyses),
        more=list(more),
    )


def _section(analysis: Analysis, key: str, *, alone: bool) -> Section:
    folder = "" if alone or not analysis.name else f"{analysis.name}/"
    return Section(
        key=key,
        name=analysis.name or analysis.tuned,
        folder=folder,
        findings=analysis.findings,
        facts=_facts(analysis),
        main=measures_table(analysis, main=True),
        every=measures_table(analysis, main=False),
        drawings=draw_analysis(analysis, key, folder),
        paper=paper_table(analysis, published=alone),
        parts=parts_tables(analysis),
        settings=_settings(analysis),
    )


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    return [
        ("base", analysis.base),
        ("tuned", analysis.tuned),
        ("extent", extent(analysis)),
        ("dtypes", stored(analysis)),
        ("nulls", drawn(analysis)),
    ]


def _settings(analysis: Analysis) -> list[tuple[str, str]]:
    """Return what the analysis was asked for, how spectra were computed, and how long it took."""
    asked = [(name, value_text(value) or "none") for name, value in analysis.settings.items()]
    spectra = ("spectra", value_text(analysis.dtypes["spectra"]))
    return [*asked, spectra, ("time", duration(analysis.seconds))]
