"""The page of a comparison: one file that answers, shows, and holds the data behind what it shows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from sparseopd.artifacts import RunDir
from sparseopd.report.comparison_answer import NOTHING, overall, study_answer
from sparseopd.report.comparison_csv import write_csvs
from sparseopd.report.comparison_figures import draw_study
from sparseopd.report.comparison_grids import (
    behaviour_table,
    costs_table,
    scores_table,
    studies_table,
)
from sparseopd.report.comparison_paper import paper_tables, sides_table
from sparseopd.report.comparison_settings import arms_table, setting_rows
from sparseopd.report.drawings import Drawing
from sparseopd.report.page_table import PageTable
from sparseopd.report.templates import environment, write_page
from sparseopd.results import Results, Study

CSV = "csv"
"""The folder of the CSV files, beside the page."""


@dataclass(frozen=True)
class Section:
    """What the page shows of one study."""

    key: str
    study: Study
    answer: list[str]
    facts: list[tuple[str, str]]
    arms: list[PageTable]
    drawings: list[Drawing]
    costs: list[PageTable]
    sides: PageTable | None
    """Sparsity and geometry of its updates."""
    settings: list[tuple[str, str]]
    orders: PageTable | None
    """What each arm was told to do."""


@dataclass(frozen=True)
class File:
    """A CSV file that the page holds as well."""

    name: str
    lines: int
    """Rows, without the heading."""
    link: Markup
    """A data: address of its bytes."""


def write_comparison(results: Results, folder: Path) -> Path:
    """Write `folder`/report.html and `folder`/csv/*.csv, each whole; return the page's path.

    The page stands alone: no script, no network; the CSV files are also inside it. The same results
    give the same bytes. Raises `RunFolderError` if a file cannot be written.
    """
    run = RunDir(folder)
    RunDir(folder / CSV).create()
    files = write_csvs(results, folder / CSV)
    write_page(run.report, render(results, files))
    return run.report


def render(results: Results, files: Mapping[str, bytes]) -> str:
    """Return the page as HTML text, with the CSV `files` in it."""
    sections = [_section(study, f"s{place}") for place, study in enumerate(results.studies, 1)]
    answer = overall(results) or ([] if sections else [NOTHING])
    template = environment().get_template("comparison.html.j2")
    return template.render(
        title=results.name,
        command=results.command,
        overall=answer,
        studies=_studies(results),
        sections=sections,
        paper=paper_tables(results),
        settings=list(setting_rows(results.settings)),
        versions=sorted(results.versions.items()),
        files=[_file(name, content) for name, content in files.items()],
        folder=f"{CSV}/",
    )


def _section(study: Study, key: str) -> Section:
    return Section(
        key=key,
        study=study,
        answer=study_answer(study),
        facts=_facts(study),
        arms=[table for table in (scores_table(study), behaviour_table(study)) if table.lines],
        drawings=draw_study(study, key, f"{CSV}/"),
        costs=[table for table in (costs_table(study),) if table.lines],
        sides=sides_table(study),
        settings=list(setting_rows(study.settings)),
        orders=arms_table(study),
    )


def _studies(results: Results) -> PageTable | None:
    table = studies_table(results)
    return table if len(table.lines) > 1 else None


def _facts(study: Study) -> list[tuple[str, str]]:
    facts = [
        ("pair", study.title),
        ("setup", study.setting),
        ("student", study.student),
        ("teacher", study.teacher),
    ]
    return [(name, text) for name, text in facts if text]


def _file(name: str, content: bytes) -> File:
    # In base64 nothing of the content can end the attribute, or be read as anything but data.
    address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode('ascii')}"
    return File(name, content.count(b"\n") - 1, Markup(address))
