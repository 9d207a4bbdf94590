"""The HTML report: one file that holds everything, for one evaluation or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparseopd.artifacts import ArmScores, Scores, written_whole
from sparseopd.report import arms
from sparseopd.report.columns import Column, filled_columns
from sparseopd.report.completions import Exhibit, exhibits
from sparseopd.report.figures import Drawing, draw_masks, draw_measures
from sparseopd.report.finding import answer
from sparseopd.report.words import clean


@dataclass(frozen=True)
class Section:
    """What the page shows of one evaluation."""

    key: str
    scores: Scores
    answer: list[str]
    columns: list[Column]
    drawings: list[list[Drawing]]
    """What was measured, then the masks: each list a block of its own."""
    exhibits: list[Exhibit]
    settings: list[tuple[str, str]]


def write_report(scores: list[Scores], path: Path, *, title: str, command: str) -> None:
    """Write the report on `scores` to `path`, whole or not at all.

    `command` is shown as what reproduces the report. The same arguments give the same bytes. Raises
    `RunFolderError` if the file cannot be written, `ValueError` if there are no scores.
    """
    if not scores:
        raise ValueError("a report needs at least one evaluation, received none")
    page = render(scores, title=title, command=command)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(scores: list[Scores], *, title: str, command: str) -> str:
    """Return the page as HTML text."""
    sections = [_section(one, f"e{number}") for number, one in enumerate(scores, 1)]
    template = _environment().get_template("template.html.j2")
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
        exhibits=exhibits(scores),
        settings=_settings(scores),
    )


def _environment() -> Environment:
    """Escape everything; every value is also rid of characters that UTF-8 or XML cannot hold."""
    environment = Environment(
        loader=PackageLoader("sparseopd.report", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["color"] = _color
    environment.filters["tight"] = _tight
    environment.filters["svg"] = Markup  # only for svg.to_svg, which escapes its text itself
    return environment


def _printable(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _color(arm: ArmScores) -> str:
    return arms.look(arm).color


def _tight(text: str) -> str:
    """Keep a figure and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _settings(scores: Scores) -> list[tuple[str, str]]:
    """Return every shared setting and every arm's path as (name, text)."""
    rows = [(key.replace("_", " "), _value(value)) for key, value in scores.settings.items()]
    return rows + [(f"arm {arm.name}", arm.path) for arm in scores.arms]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return "none" if value is None else str(value)
