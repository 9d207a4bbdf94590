"""Where each tensor of a checkpoint folder lies, to the byte, and what else belongs to a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseopd.pairs.folder import FLOATS, INDEX, SINGLE

SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Files that a model needs beside its weights; none of them is ever executed or unpickled."""
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
FOLDERS = ("additional_chat_templates",)
"""Folders inside a model's that transformers itself writes."""
_FOREIGN = (".bin.index.json",)


@dataclass(frozen=True)
class Span:
    """Bytes of one shard: a tensor, or the header (whose name is empty)."""

    file: str
    name: str
    start: int
    stop: int
    """Offsets in the file."""
    dtype: torch.dtype | None
    """None for the header, and for numbers that are not floating-point."""
    shape: torch.Size


def shards(folder: Path) -> list[str]:
    """Return the names of the files of weights, sorted; the folder was opened as a checkpoint before."""
    if not (folder / INDEX).is_file():
        return [SINGLE]
    weights = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return sorted(set(weights.values()))


def spans(folder: Path, file: str) -> list[Span]:
    """Return what a shard consists of, in order.

    Only for a file that safetensors has opened before: it checks that tensors neither overlap nor
    leave gaps, nor end elsewhere than the file.
    """
    with (folder / file).open("rb") as content:
        start = 8 + int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(start - 8))
    header.pop("__metadata__", None)
    found = [Span(file, "", 0, start, None, torch.Size())]
    for name, facts in header.items():
        begin, end = (start + offset for offset in facts["data_offsets"])
        dtype, shape = FLOATS.get(facts["dtype"]), torch.Size(facts["shape"])
        found.append(Span(file, name, begin, end, dtype, shape))
    return sorted(found, key=lambda span: (span.start, span.stop))


def copy_others(folder: Path, output: Path) -> list[str]:
    """Copy what a model needs beside its weights, links resolved; return what was left out, sorted.

    Left out: pickles, code, weights in other formats, folders, and links that lead out of the folder
    (or, in the hub's cache, out of the repository's part of it). Hidden files are not counted.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent
    weights = set(shards(folder))
    left_out = []
    for path in _listed(folder):
        name = path.relative_to(folder).as_posix()
        if _belongs(path.name) and path.is_file() and path.resolve().is_relative_to(home):
            (output / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, output / name)
        elif name not in weights:
            left_out.append(f"{name}/" if path.is_dir() else name)
    return sorted(left_out)


def _listed(folder: Path) -> list[Path]:
    """Return what lies in a folder, and in those folders of it that belong to a model."""
    inside = [path for name in FOLDERS for path in (folder / name).glob("*")]
    own = [path for path in folder.iterdir() if path.name not in FOLDERS]
    return [path for path in [*own, *inside] if not path.name.startswith(".")]


def _belongs(name: str) -> bool:
    known = Path(name).suffix in SUFFIXES or Path(name).stem in LICENCES
    return known and not name.endswith(_FOREIGN)
