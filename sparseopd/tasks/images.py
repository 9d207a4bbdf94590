"""One cell of a data set → the pictures of a row, as the bytes or path that `datasets` stores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from sparseopd.errors import DataError

Encoded = dict[str, Any]
"""How `datasets` stores a picture: {"bytes": …, "path": …}, one of them None."""

IMAGES = List(Image())
"""The feature of the canonical `images` column."""


def undecoded(rows: Dataset, column: str) -> Dataset:
    """Keep `datasets` from decoding the column, so that pictures are not encoded a second time."""
    feature = rows.features[column]
    plain = _plain(feature)
    return rows if plain == feature else rows.cast_column(column, plain)


def _plain(feature: Any) -> Any:
    """Return a feature whose pictures, however deep inside, stay encoded."""
    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, List):
        return List(_plain(feature.feature))
    if isinstance(feature, dict):
        return {name: _plain(inner) for name, inner in feature.items()}
    return feature


def to_images(cell: Any, folder: Path, where: str) -> list[Encoded]:
    """Return a row's pictures: none, one, or a list of paths, bytes or {"bytes", "path"}.

    Relative paths start at `folder`. Raises `DataError` naming the row when one cannot be opened.
    """
    cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
    return [_encoded(item, folder, where) for item in cells]


def _encoded(item: Any, folder: Path, where: str) -> Encoded:
    if isinstance(item, str):
        item = {"path": item}
    elif isinstance(item, bytes):
        item = {"bytes": item}
    if isinstance(item, dict) and item.get("bytes"):
        _check(io.BytesIO(item["bytes"]), "bytes", where)
        return {"bytes": item["bytes"], "path": None}
    if isinstance(item, dict) and item.get("path"):
        file = folder / Path(item["path"]).expanduser()
        _check(file, str(file), where)
        return {"bytes": None, "path": str(file)}
    raise DataError(
        f"{where} has an image of type {type(item).__name__}: give a path, or a picture's bytes"
    )


def _check(source: Path | io.BytesIO, name: str, where: str) -> None:
    """Read the picture's header, so that a bad one is told now and not in the midst of a run."""
    try:
        with PILImage.open(source):
            pass
    except UnidentifiedImageError as error:
        raise DataError(f"{where} has an image that is no picture: {name}") from error
    except (OSError, PILImage.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{where} has an image that cannot be read, {name}: {reason}") from error
