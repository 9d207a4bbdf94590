"""The teachers of an evaluation: whose a prompt is, which model is in memory, what a reader must know."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from sparseopd.pairs import load_model, teacher_device
from sparseopd.recipe import Recipe, Teacher


class Teachers:
    """Models of teachers by name, one of them in memory at a time.

    A single one is loaded once; several take turns, so that an arm never shares the memory with more
    than one of them.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Load nothing yet; `device` is where those run that have no device of their own."""
        self._recipe, self._device = recipe, device
        self._held: tuple[str, PreTrainedModel] | None = None

    def __getitem__(self, name: str) -> PreTrainedModel:
        """Return a teacher's model, which takes the place of the one before."""
        if self._held is None or self._held[0] != name:
            if self._held is not None:
                self._held = None
                free_memory()
            teacher = self._recipe.all_teachers()[name]
            model = load_model(teacher, device=teacher_device(teacher, self._device))
            self._held = name, model
        return self._held[1]

    def in_turn(self, names: Iterable[str]) -> list[str]:
        """Put the one in memory first, to load one less."""
        held = self._held[0] if self._held else None
        return sorted(names, key=lambda name: name != held)


def routes(recipe: Recipe, prompts: Dataset) -> dict[str, list[int]]:
    """Return the places of each teacher's prompts; nothing if any teacher is on a server.

    A server gives no whole distribution, and a KL over the other teachers' prompts alone would be a
    figure of another data set.
    """
    teachers = recipe.all_teachers()
    if any(teacher.server for teacher in teachers.values()):
        return {}
    if len(teachers) == 1:
        return {next(iter(teachers)): list(range(len(prompts)))}
    found: dict[str, list[int]] = {}
    for place, name in enumerate(prompts["teacher"] if teachers else ()):
        found.setdefault(name, []).append(place)
    return found


def notes(recipe: Recipe) -> list[str]:
    """Say what is peculiar to these teachers, one sentence each; nothing of a plain single one."""
    teachers = recipe.all_teachers()
    served = [name for name, teacher in teachers.items() if teacher.server]
    bits = {name: teacher.quantization for name, teacher in teachers.items()}
    sentences = [f"{_called(name, teachers)} is on a server: no KL" for name in served]
    sentences += [
        f"{_called(name, teachers)} is held in {held}" for name, held in bits.items() if held
    ]
    local = len(teachers) - len(served)
    if local and len(teachers) > 1:
        own = "" if served else "KL is to the teacher of each prompt; "
        sentences.append(f"{own}a teacher's arm answers the prompts of the others too")
    if local and recipe.data.privileged:
        also = "" if served else " and in the KL to it"
        sentences.append(f"the teacher sees {recipe.data.privileged} too, in its own arm{also}")
    return sentences


def free_memory() -> None:
    """Give the memory of models that nothing refers to any more back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _called(name: str, teachers: dict[str, Teacher]) -> str:
    return f"the teacher {name}" if len(teachers) > 1 else "the teacher"
