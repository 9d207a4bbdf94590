"""Student, teacher and processor: from a path or hub id to models that fit each other.

    recipe.Model, Teacher → load_model / load_processor → check_vocabulary → student, teacher, processor
    canonical rows → encode → input_ids, attention_mask and image fields
    checkpoint folder or model → open_tensors → tensors or pieces of them, by checkpoint name

The tensors' names are always those of the Hugging Face checkpoint on disk, also where transformers
holds a parameter under another name, or several checkpoint tensors in one parameter (experts).
Names load on first use: reading a checkpoint's tensors does not import transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseopd.pairs.encoding import encode, end_ids, to_device
    from sparseopd.pairs.loading import (
        check_images,
        has_chat_template,
        is_vision_language,
        load_model,
        load_processor,
        pick_device,
        teacher_device,
    )
    from sparseopd.pairs.locate import local_folder, resolve_path
    from sparseopd.pairs.parameters import checkpoint_pieces, gather_positions
    from sparseopd.pairs.tensors import Tensors, open_tensors, tensor_hash
    from sparseopd.pairs.vocabulary import check_vocabulary, match_teacher

__all__ = [
    "Tensors",
    "check_images",
    "check_vocabulary",
    "checkpoint_pieces",
    "encode",
    "end_ids",
    "gather_positions",
    "has_chat_template",
    "is_vision_language",
    "load_model",
    "load_processor",
    "local_folder",
    "match_teacher",
    "open_tensors",
    "pick_device",
    "resolve_path",
    "teacher_device",
    "tensor_hash",
    "to_device",
]

_HOME = {
    "encoding": ("encode", "end_ids", "to_device"),
    "loading": (
        "check_images",
        "has_chat_template",
        "is_vision_language",
        "load_model",
        "load_processor",
        "pick_device",
        "teacher_device",
    ),
    "locate": ("local_folder", "resolve_path"),
    "parameters": ("checkpoint_pieces", "gather_positions"),
    "tensors": ("Tensors", "open_tensors", "tensor_hash"),
    "vocabulary": ("check_vocabulary", "match_teacher"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"sparseopd.pairs.{module}"), name)
    raise AttributeError(f"module 'sparseopd.pairs' has no attribute {name!r}")
