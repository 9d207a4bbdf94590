"""SparseConfig: what PEFT is told about a sparse adapter."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from peft import PeftConfig

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card import write_card
from sparseopd.adapter_files.format import PEFT_TYPE, WEIGHTS
from sparseopd.errors import AdapterError
from sparseopd.masks.mask import Mask


class SparseType(str, Enum):  # noqa: UP042  # like PEFT's, whose status splits str() at the dot
    """This kind of adapter, as PEFT's own enum says its kinds."""

    SPARSEOPD = PEFT_TYPE


@dataclass
class SparseConfig(PeftConfig):
    """An adapter that holds new values for the coordinates of a mask, and nothing else.

    model = get_peft_model(model, SparseConfig(mask="mask.safetensors"))

    Raises `MaskFileError` for a damaged mask file.
    """

    mask: Mask | str | Path | None = field(default=None, repr=False)
    """The coordinates to train: a Mask or its file. A loaded adapter brings its own."""
    save_masters: bool = True
    """Save float32 values beside those of narrower weights, to go on training from."""
    k: int | None = None
    """Number of coordinates; set by the mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = SparseType.SPARSEOPD
        if isinstance(self.mask, (str, Path)):
            self.mask = Mask.load(self.mask)
        if self.mask is not None:
            self.k = self.mask.count()

    @property
    def chosen(self) -> Mask:
        """The mask. Raises `AdapterError` where there is none yet."""
        if not isinstance(self.mask, Mask):
            raise AdapterError(
                "SparseConfig has no mask: give SparseConfig(mask=…), or load an adapter"
            )
        return self.mask

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the settings and, beside an adapter that PEFT has just written, its model card."""
        super().save_pretrained(save_directory, **kwargs)
        if (Path(save_directory) / WEIGHTS).is_file():
            write_card(save_directory, SparseAdapter.load(save_directory))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them; the mask itself is in the adapter's weights."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "mask"}
