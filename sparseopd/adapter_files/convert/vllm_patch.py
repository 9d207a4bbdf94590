"""Sparse weight patches for vLLM: flat positions and replacement values, by checkpoint name.

vLLM has no file for them: `load_checkpoint_weight_patches` (model_executor/model_loader, 2026) takes
them in memory. This one holds its arguments, so that a worker reads

    with safe_open("patch.safetensors", "pt") as file:
        for name, shape in json.loads(file.metadata()["shapes"]).items():
            indices, values = (file.get_tensor(f"{name}.{part}") for part in ("indices", "values"))
            patches.append(CheckpointWeightPatch(name, shape, values.dtype, values, indices))

with `NAME.indices` int32 (k,), distinct and ascending, and `NAME.values` (k,) in the dtype of the
parameter. To vLLM NaN means "unchanged", so that a new value that is NaN cannot be said.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.container import Container
from sparseopd.adapter_files.convert.changes import Change, Places, Replacements, taken
from sparseopd.adapter_files.convert.differences import positions_of
from sparseopd.adapter_files.convert.plain import PlainFile
from sparseopd.adapter_files.convert.result import Outcome, share
from sparseopd.adapter_files.convert.steps import tensors_in
from sparseopd.artifacts import Progress
from sparseopd.errors import AdapterError, AdapterFileError
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "a vLLM sparse weight patch"
FILE, FORMAT = "patch.safetensors", "vllm-sparse-patch"
PARTS = ("indices", "values")
LARGEST = 2**31 - 1
"""Coordinates that a flat int32 index reaches."""


def export(
    adapter: SparseAdapter, base: Source | None, folder: Path, progress: Progress | None
) -> Outcome:
    """Write the patch; the base is not needed. Raises `AdapterError` for a tensor that is too large."""
    for name in adapter.touched:
        if adapter.shape(name).numel() > LARGEST:
            raise AdapterError(
                f"{name} has {adapter.shape(name).numel():,} coordinates, and the int32 positions of a "
                f"patch reach {LARGEST:,}: convert to coo"
            )
    patches = [name for name in adapter.touched if not adapter.values(name).isnan().all()]
    if not patches:
        raise AdapterError(f"all values of {adapter.label} are NaN, which a patch cannot say")
    shapes = {name: list(adapter.shape(name)) for name in patches}
    container = Container(folder, {"format": FORMAT, "shapes": json.dumps(shapes)})
    kept = 0
    try:
        for name in tensors_in(adapter, patches, progress):
            values = adapter.values(name)
            numbers = ~values.isnan()
            positions = positions_of(adapter.mask.bitmaps[name])[numbers]
            container.add(f"{name}.indices", positions.int())
            container.add(f"{name}.values", taken(values, numbers))
            kept += len(positions)
        container.write(folder / FILE)
    finally:
        container.close()
    return Outcome(k=kept, losses=_unsaid(adapter.count() - kept, adapter.count()))


def read(path: Path, source: Source, base: Tensors) -> Change:
    """Open a patch; entries that are NaN are dropped. Raises `AdapterError` for a damaged or foreign one."""
    file = PlainFile(path / FILE if path.is_dir() else path, PARTS)

    def stored(name: str) -> Places:
        return file.tensor(name, "indices"), file.tensor(name, "values")

    return Replacements(file.label, base, _shapes(file), stored, drops_nan=True)


def _shapes(file: PlainFile) -> dict[str, tuple[int, ...]]:
    """Return the full shapes that the metadata give."""
    try:
        shapes = {
            name: tuple(map(int, shape))
            for name, shape in json.loads(file.metadata["shapes"]).items()
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise AdapterFileError(
            f"{file.label} does not say the tensors' shapes in its metadata ({error!r})"
        ) from error
    if sorted(shapes) != file.names:
        raise AdapterFileError(f"{file.label} says the shapes of other tensors than it holds")
    return shapes


def _unsaid(lost: int, whole: int) -> list[str]:
    return [
        f"{share(lost, whole)} are NaN, which means unchanged to vLLM, and are left out"
    ] * bool(lost)
