"""The HTML report: one file that holds everything, for one evaluation or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import arms
from sparseopd.report.benchmarks import page_benchmarks
from sparseopd.report.columns import Column, filled_columns
from sparseopd.report.completions import Exhibit, exhibits
from sparseopd.report.drawings import Drawing
from sparseopd.report.figures import draw_masks, draw_measures
from sparseopd.report.finding import answer
from sparseopd.report.page_table import PageTable
from sparseopd.report.templates import environment, value_text, write_page


@dataclass(frozen=True)
class Section:
    """What the page shows of one evaluation."""

    key: str
    scores: Scores
    answer: list[str]
    columns: list[Column]
    drawings: list[list[Drawing]]
    """What was measured, then the masks: each list a block of its own."""
    benchmarks: PageTable | None
    exhibits: list[Exhibit]
    settings: list[tuple[str, str]]


def write_report(scores: list[Scores], path: Path, *, title: str, command: str) -> None:
    """Write the report on `scores` to `path`, whole or not at all.

    `command` is shown as what reproduces the report. The same arguments give the same bytes. Raises
    `RunFolderError` if the file cannot be written, `ValueError` if there are no scores.
    """
    if not scores:
        raise ValueError("a report needs at least one evaluation, received none")
    write_page(path, render(scores, title=title, command=command))


def render(scores: list[Scores], *, title: str, command: str) -> str:
    """Return the page as HTML text."""
    sections = [_section(one, f"e{number}") for number, one in enumerate(scores, 1)]
    templates = environment()
    templates.filters["color"] = _color
    template = templates.get_template("template.html.j2")
    return template.render(title=title, command=command, sections=sections)


def _section(scores: Scores, key: str) -> Section:
    return Section(
        key=key,
        scores=scores,
        answer=answer(scores),
        columns=filled_columns(scores),
        drawings=[
            block for block in (draw_measures(scores, key), draw_masks(scores, key)) if block
        ],
        benchmarks=page_benchmarks(scores),
        exhibits=exhibits(scores),
        settings=_settings(scores),
    )


def _color(arm: ArmScores) -> str:
    return arms.look(arm).color


def _settings(scores: Scores) -> list[tuple[str, str]]:
    """Return every shared setting and every arm's path as (name, text)."""
    rows = [(key.replace("_", " "), value_text(value)) for key, value in scores.settings.items()]
    return rows + [(f"arm {arm.name}", arm.path) for arm in scores.arms]
