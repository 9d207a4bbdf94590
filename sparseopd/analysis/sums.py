"""What is added up over the parts of a model as they are measured, and kept if the work is interrupted.

    FOLDER/partial.safetensors   the sums and rows so far; its header: what is analysed, and how

One file holds both, written whole, so that rows and sums never disagree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseopd.analysis.measure import Measured
from sparseopd.analysis.pooled import Pooled
from sparseopd.artifacts import written_whole
from sparseopd.errors import RunFolderError

PARTIAL = "partial.safetensors"


@dataclass
class Sums:
    """Rows in the order of measuring, pooled counts by side and draw, joint counts by side."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pooled: dict[str, list[Pooled]] = field(default_factory=dict)
    joint: dict[str, Tensor] = field(default_factory=dict)

    def add(self, measured: Measured) -> None:
        """Take in a part: wholly or, where Ctrl-C comes in between, not at all."""
        pooled = {
            side: [a + b for a, b in zip(self.pooled[side], draws, strict=True)]
            if side in self.pooled
            else draws
            for side, draws in measured.pooled.items()
        }
        joint = {
            side: self.joint[side] + counts if side in self.joint else counts
            for side, counts in measured.joint.items()
        }
        self.__dict__.update(
            rows=[*self.rows, measured.row],
            pooled=self.pooled | pooled,
            joint=self.joint | joint,
        )

    def save(self, folder: Path, request: dict[str, Any]) -> None:
        """Keep them, beside what was asked for."""
        tensors = {f"joint.{side}": counts.contiguous() for side, counts in self.joint.items()}
        for side, draws in self.pooled.items():
            for number, one in enumerate(draws):
                tensors[f"counts.{side}.{number}"] = one.counts
                tensors[f"energies.{side}.{number}"] = one.energies
        rows = bytearray(json.dumps(self.rows).encode())  # safetensors limits its header to 100 MB
        tensors["rows"] = torch.frombuffer(rows, dtype=torch.uint8)
        header = {"request": json.dumps(request)}
        with written_whole(folder / PARTIAL) as temporary:
            save_file(tensors, temporary, header)

    @classmethod
    def load(cls, folder: Path, request: dict[str, Any]) -> Sums:
        """Return what was kept for the same request, or nothing where none was.

        Raises `RunFolderError` where the folder holds part of another analysis.
        """
        path = folder / PARTIAL
        if not path.is_file():
            return cls()
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                kept = json.loads(header["request"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            rows = json.loads(bytes(tensors.pop("rows").numpy()))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunFolderError(f"{path} cannot be read ({error}): remove it") from error
        if kept != request:
            raise RunFolderError(
                f"{folder} holds part of an analysis of {kept.get('base')} and {kept.get('tuned')} as "
                "they were, or with other settings: give another folder with -o, or remove it"
            )
        return cls(rows, _pooled(tensors), _joint(tensors))


def forget(folder: Path) -> None:
    """Remove what was kept."""
    (folder / PARTIAL).unlink(missing_ok=True)


def _pooled(tensors: dict[str, Tensor]) -> dict[str, list[Pooled]]:
    found: dict[str, dict[int, Pooled]] = {}
    for name, counts in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "counts":
            side, _, number = rest.partition(".")
            found.setdefault(side, {})[int(number)] = Pooled(counts, tensors[f"energies.{rest}"])
    return {side: [draws[number] for number in sorted(draws)] for side, draws in found.items()}


def _joint(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix("joint."): counts
        for name, counts in tensors.items()
        if name.startswith("joint.")
    }
