"""A base with several overlapping adapters, odd bits, and what their weights should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from tests.adapters.adapted import (
    as_bits,
    checkpoint_of,
    differing,
    mask_of,
    new_values,
    write_adapter,
)

NAMES = ("one", "two", "three")


class Several:
    """A base and three adapters of it, on disk and as what they should make.

    The second overlaps the others, which have the same coordinates.
    """

    def __init__(self, folder: Path, base: nn.Module, *, odd: bool = True) -> None:
        self.base, self.folders = base, {}
        self.masks = {name: mask_of(base, 0.3, seed % 2) for seed, name in enumerate(NAMES)}
        self.values = {
            name: new_values(mask, base, seed, odd=odd)
            for seed, (name, mask) in enumerate(self.masks.items())
        }
        self.start = checkpoint_of(base)
        for name in NAMES:
            self.folders[name] = write_adapter(
                folder / name, base, self.masks[name], self.values[name]
            )

    def loaded(self, *names: str, **settings: Any) -> PeftModel:
        """The model with some adapters, the first of them active."""
        first = names[0]
        model = PeftModel.from_pretrained(self.base, self.folders[first], first, **settings)
        for name in names[1:]:
            model.load_adapter(self.folders[name], name, **settings)
        return model

    def expected(self, *names: str) -> dict[str, Tensor]:
        """The base with some adapters written over it, the last on top."""
        found = {name: tensor.clone() for name, tensor in self.start.items()}
        for adapter in names:
            for name, new in self.values[adapter].items():
                as_bits(found[name])[self.masks[adapter][name]] = as_bits(new)
        return found


def assert_shows(model: nn.Module, expected: dict[str, Tensor]) -> None:
    """The weights are these, to the bit."""
    wrong = differing(checkpoint_of(model), expected)
    assert not wrong, f"other bits in {wrong}"
