"""Masks: which coordinates of a model may train.

    two models → select → Mask → save/load → MaskedOptimizer, verify, set algebra, overlap

    mask = select("base", "tuned", selector="topk", density=0.1)
    mask.save("mask.safetensors")
    Mask.load("mask.safetensors").verify("base")

A mask is one bitmap per checkpoint tensor. Checkpoints and mask files are read tensor by tensor, so
memory does not grow with the model. This package imports no trainer and needs no model class.
"""

from sparseopd.masks.layout import layout
from sparseopd.masks.mask import Mask
from sparseopd.masks.select import select
from sparseopd.masks.summary import summarize_update

__all__ = ["Mask", "layout", "select", "summarize_update"]
