"""How results call things."""

from __future__ import annotations

from sparseopd.settings.optimizer import Optimizer


def optimizer_words(settings: Optimizer) -> str:
    """Return "adamw", "sgd", or "sgd, momentum 0.9"."""
    momentum = f", momentum {settings.momentum:g}" if settings.momentum else ""
    return settings.name + momentum
