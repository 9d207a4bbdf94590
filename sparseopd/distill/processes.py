"""Which of the launched processes this is: one writes, all train."""

from __future__ import annotations

import os

from accelerate import PartialState


def count() -> int:
    """Return how many processes `accelerate launch` or `torchrun` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Wait until every process has come here."""
    if count() > 1:
        PartialState().wait_for_everyone()
