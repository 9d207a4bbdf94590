"""Reads output back: a report as a browser would, with its text, attributes and ids as escaping left
them; a table as a terminal shows it."""

from __future__ import annotations

import io
from collections import Counter
from html.parser import HTMLParser

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table


def printed(*tables: Table, width: int = 80) -> str:
    """Tables as plain text in a terminal of this width, which they must fit with nothing cut."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in tables:
        console.print(table)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(cell_len, text.splitlines())) <= width
    return text


VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Parsed HTML: which tags there are, their attributes, and the text of each kind of tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, name, value in self.attributes if name == attribute]

    def all_text(self) -> str:
        """All text but the style sheet."""
        return " ".join(" ".join(parts) for tag, parts in self.text.items() if tag != "style")
