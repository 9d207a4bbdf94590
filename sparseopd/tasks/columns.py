"""Find the columns of a data set that hold each part of a row, nested ones included."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Json

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks.sources import Source

Path = tuple[str, ...]
"""The name of a column, then of the fields inside it."""


@dataclass(frozen=True)
class Field:
    """Where a value stands: in a column, or in a field inside one."""

    path: Path

    @property
    def name(self) -> str:
        """What a recipe calls it: `reward_model.ground_truth`."""
        return ".".join(self.path)

    @property
    def column(self) -> str:
        """The column it is in."""
        return self.path[0]

    def read(self, row: Any) -> Any:
        """Return its value in a row; None where the row, or a part of the way, lacks it."""
        for name in self.path:
            row = row.get(name) if isinstance(row, Mapping) else None
        return row

    def read_all(self, rows: Dataset) -> list[Any]:
        """Return its value in every row."""
        inner = Field(self.path[1:])
        return [inner.read(cell) for cell in rows[self.column]]


@dataclass(frozen=True)
class Columns:
    """Where one data set holds each part; None where there is none."""

    prompt: Field
    answer: Field | None
    image: Field | None
    teacher: Field | None
    privileged: Field | None


def find_columns(source: Source, data: Data) -> Columns:
    """Return the columns a recipe names, or the default ones that `source` has.

    A column whose own name has dots comes before a field inside another one.
    Raises `DataError` when a named column, or any column of prompts, is missing.
    """
    prompt = _field(source, data.prompt, ("messages", "prompt"), "prompt")
    if prompt is None:
        raise DataError(
            f"{source.label} has no column messages or prompt but "
            f"{', '.join(source.rows.column_names)}: name the prompt's column with data.prompt"
        )
    return Columns(
        prompt=prompt,
        answer=_field(source, data.answer, ("answer",), "answer"),
        image=_field(source, data.image, ("images", "image"), "image"),
        teacher=_field(source, data.teacher, (), "teacher"),
        privileged=_field(source, data.privileged, (), "privileged"),
    )


def _field(source: Source, wanted: str | None, defaults: Sequence[str], key: str) -> Field | None:
    """Return the column the recipe names (it must exist), or the first default there is."""
    has = source.rows.column_names
    if wanted is None:
        return next((Field((column,)) for column in defaults if column in has), None)
    if wanted in has:
        return Field((wanted,))
    # Only now: the fields of a column of free-form JSON are known by reading all of it.
    nested = {".".join(path): path for path in _nested(source.rows)}
    if wanted in nested:
        return Field(nested[wanted])
    near = difflib.get_close_matches(wanted, [*has, *nested], n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one with data.{key}"
    raise DataError(f"{source.label} has no column {wanted!r} but {', '.join(has)}: {hint}")


def _nested(rows: Dataset) -> Iterator[Path]:
    """Yield the path of every field, and of every field inside one."""
    for path, feature in _paths(rows.features, ()):
        yield path
        if isinstance(feature, Json):
            for value in Field(path).read_all(rows):
                yield from (inner for inner, _ in _paths(value, path))


def _paths(value: Any, above: Path) -> Iterator[tuple[Path, Any]]:
    """Yield what is inside nested dictionaries, of values or of their features, with its path."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        path = (*above, str(name))
        yield path, inner
        yield from _paths(inner, path)
