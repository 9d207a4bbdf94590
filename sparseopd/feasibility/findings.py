"""What a check says: one sentence about one topic, and how serious it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error", "unknown"]
"""ok; note: something is done that a reader must know; warning: the run can go on and probably should
not as it stands; error: it cannot go on; unknown: it was not checked, and why."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found out before a run."""

    level: Level
    topic: str
    sentence: str
