"""What every HTML page shares: templates that escape all they are given, and a file written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparseopd.artifacts import written_whole
from sparseopd.report.words import clean


def environment() -> Environment:
    """Escape everything; every value is also rid of characters that UTF-8 or XML cannot hold."""
    made = Environment(
        loader=PackageLoader("sparseopd.report", "."),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tight"] = _tight
    made.filters["svg"] = Markup  # only for svg.to_svg, which escapes its text itself
    return made


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all. Raises `RunFolderError` if it cannot be written."""
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def value_text(value: Any) -> str:
    """Write a setting: the parts of a list or a table after each other, None as none."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return "none" if value is None else str(value)


def _printable(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _tight(text: str) -> str:
    """Keep a figure and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")
