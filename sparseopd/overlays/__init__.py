"""Values written over a model's weights in memory, and the base's bits put back."""

from sparseopd.overlays.applied import apply, remove

__all__ = ["apply", "remove"]
