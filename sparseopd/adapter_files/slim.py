"""An adapter written again without what only further training needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.format import CARD
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import RunDir
from sparseopd.errors import AdapterError
from sparseopd.pairs.locate import weights_folder


def without_masters(adapter: SparseAdapter, output: Path) -> Path:
    """Write an adapter without its float32 values, with the card it has; return its folder.

    The values in the base's dtype stay, so that it makes the same model. Raises `AdapterError` if it has
    no masters, `RunFolderError` if the folder cannot be written.
    """
    folder = RunDir.unused(output).path
    if not adapter.has_masters:
        raise AdapterError(f"{adapter.label} has no float32 masters to leave out: use it as it is")
    before, after = adapter.mask.provenance.base_hashes, adapter.result_hashes
    with AdapterWriter(folder) as writer:
        for name in adapter.names:
            writer.add(
                name,
                adapter.mask.bitmaps[name],
                adapter.values(name) if adapter.count(name) else None,
                base_hash=before.get(name),
                result_hash=after.get(name),
            )
        writer.finish(adapter.mask.provenance, adapter.teacher)
        card = weights_folder(adapter.label) / CARD
        if card.is_file():
            shutil.copyfile(card, writer.path / CARD)
    return folder
