"""The folder of a PEFT adapter, written and read without PEFT, which takes seconds to import."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.container import Container
from sparseopd.adapter_files.convert.layers import Plan, architecture_of
from sparseopd.adapter_files.format import CONFIG, WEIGHTS
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.masks.mask import listing
from sparseopd.pairs.tensors import Source, Tensors

PREFIX = "base_model.model."
"""Before the name of every module in a file of PEFT's."""


def save(
    folder: Path,
    adapter: SparseAdapter,
    plan: Plan,
    settings: dict[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Write a PEFT adapter that targets the plan's layers.

    Args:
        settings: what adapter_config.json says of this kind; the target modules are added.
        tensors: module and part ("….q_proj.shira_weight") with its tensor, one in memory at a time.
    """
    known = adapter.mask.provenance
    config = {
        "base_model_name_or_path": known.base or None,
        "revision": known.revision,
        "task_type": None,
        "inference_mode": True,
        "target_modules": plan.architecture.targets([layer.module for layer in plan.layers]),
        **settings,
    }
    container = Container(folder, {"format": "pt"})
    try:
        for key, tensor in tensors:
            container.add(f"{PREFIX}{key}", tensor)
        container.write(folder / WEIGHTS)
    finally:
        container.close()
    content = json.dumps(config, indent=2) + "\n"
    (folder / CONFIG).write_text(content, encoding="utf-8")


class PeftFolder:
    """A PEFT adapter whose file holds, of each linear layer, values and their places."""

    def __init__(self, folder: Path, title: str, parts: tuple[str, str]) -> None:
        """Args: `parts` are what the two tensors of a layer are called. Raises `AdapterError`."""
        self.label, self.title = str(folder), title
        self._parts = parts
        self.config = read_config(folder)
        try:
            self._file = safe_open(folder / WEIGHTS, framework="pt")
        except (SafetensorError, OSError) as error:
            raise AdapterFileError(
                f"cannot read the adapter's weights {folder / WEIGHTS}: {error}"
            ) from error
        self._keys = set(self._file.keys())
        self.modules = self._find_modules()

    def read(self, module: str) -> tuple[Tensor, Tensor]:
        """Return a layer's two tensors, in the order of `parts`."""
        values, places = (self._file.get_tensor(f"{PREFIX}{module}.{part}") for part in self._parts)
        return values, places

    def tensors_of(self, source: Source, base: Tensors) -> dict[str, str]:
        """Return which module each tensor of the base belongs to. Raises `AdapterMismatchError`."""
        names = set(base.keys())
        found = {f"{one}.weight": one for one in self.modules if f"{one}.weight" in names}
        missing = [one for one in self.modules if f"{one}.weight" not in names]
        if missing:
            linear = architecture_of(source, base).linear
            by_module = {module: tensor for tensor, module in linear.items()}
            unknown = [one for one in missing if one not in by_module]
            if unknown:
                raise AdapterMismatchError(
                    f"{self.label} adapts {listing(unknown)}, which {base.label} has not: give the base it "
                    "was trained on",
                    dict.fromkeys(unknown, "missing"),
                )
            found |= {by_module[one]: one for one in missing}
        return found

    def _find_modules(self) -> list[str]:
        modules = set()
        for key in sorted(self._keys):
            module, _, part = key.removeprefix(PREFIX).rpartition(".")
            if not key.startswith(PREFIX) or part not in self._parts:
                raise AdapterError(
                    f"{self.label} has {key}, which is more than {self.title}'s values at chosen places: "
                    "merge it with PEFT, and extract an adapter from the merged checkpoint"
                )
            modules.add(module)
        for module in sorted(modules):
            for part in self._parts:
                if f"{PREFIX}{module}.{part}" not in self._keys:
                    raise AdapterError(
                        f"{self.label} lacks {module}.{part}: save it again with its indices"
                    )
        return sorted(modules)


def read_config(folder: Path) -> dict[str, Any]:
    """Return what adapter_config.json says. Raises `AdapterFileError`."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"cannot read the settings {folder / CONFIG}: {error}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{folder / CONFIG} holds no settings but a {type(config).__name__}")
    return config
