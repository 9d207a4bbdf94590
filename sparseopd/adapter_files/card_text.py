"""Foreign text in Markdown: names, paths and commands that can say anything, and must break nothing."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
"""What means something in the middle of a line; nothing foreign ever stands at the beginning of one."""


def one_line(text: str) -> str:
    """Put text on one line; U+FFFD stands for characters that steer a terminal or a reader's eye."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in line)


def plain(text: str) -> Markup:
    """Escape text for a sentence or a cell of a table."""
    return Markup(_SPECIAL.sub(r"\\\1", one_line(text)))  # Markup only marks it as done


def code(text: str) -> Markup:
    """Return text as a code span, for a sentence; a dash where there is none."""
    line = one_line(text)
    if not line:
        return Markup("–")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in (line[0], line[-1]) else ""
    return Markup(f"{fence}{pad}{line}{pad}{fence}")


def value_text(value: Any) -> str:
    """Write a setting: the parts of a list or a table after each other."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return str(value)


def finalize(value: Any) -> Any:
    """Escape whatever a template prints, unless that was done."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
