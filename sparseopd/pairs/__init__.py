"""Student, teacher and processor: from a path or hub id to models that fit each other.

    recipe.Model → load_model / load_processor → check_pair → student, teacher, processor
    checkpoint folder or model → open_tensors → one tensor at a time, by checkpoint name

The tensors' names are always those of the Hugging Face checkpoint on disk, also where transformers
holds a parameter under another name, or several checkpoint tensors in one parameter (experts).
"""

from sparseopd.pairs.loading import (
    check_images,
    has_chat_template,
    is_vision_language,
    load_model,
    load_processor,
    local_folder,
    pick_device,
    resolve_path,
)
from sparseopd.pairs.parameters import checkpoint_pieces, gather_positions
from sparseopd.pairs.tensors import Tensors, open_tensors, tensor_hash
from sparseopd.pairs.vocabulary import check_vocabulary, match_teacher

__all__ = [
    "Tensors",
    "check_images",
    "check_vocabulary",
    "checkpoint_pieces",
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
    "tensor_hash",
]
