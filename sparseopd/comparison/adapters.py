"""Which LoRA and SHiRA arms a student can have: told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sparseopd.comparison.arms import Arm
from sparseopd.distill.peft_arm import adapted_layers, chosen_rank
from sparseopd.errors import RecipeError
from sparseopd.pairs.skeleton import skeleton
from sparseopd.settings.peft import Peft


def impossible(folder: Path, arms: Mapping[str, Arm], numel: int) -> dict[str, str]:
    """Return why the student in a folder cannot have an adapter of an arm's size, by the arm's name."""
    found = {}
    adapters = {name: arm for name, arm in arms.items() if arm.kind in ("lora", "shira")}
    layers = adapted_layers(skeleton(folder)) if adapters else {}
    for name, arm in adapters.items():
        kind = "lora" if arm.kind == "lora" else "shira"
        try:
            chosen_rank(Peft(type=kind, k=round(arm.density * numel)), layers)
        except RecipeError as error:
            found[name] = str(error)
    return found
