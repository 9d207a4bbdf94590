"""Masks: which coordinates of a model may train.

    two models → select → Mask → save/load → MaskedOptimizer, verify, set algebra

    mask = select("base", "tuned", selector="topk", density=0.1)
    mask.save("mask.safetensors")
    Mask.load("mask.safetensors").verify("base")

A mask is one bitmap per checkpoint tensor. This package imports no trainer and needs no model class.
"""

from sparseopd.masks.layout import layout
from sparseopd.masks.mask import Mask
from sparseopd.masks.select import select
from sparseopd.masks.selectors import SELECTORS
from sparseopd.masks.summary import summarize_update

__all__ = ["SELECTORS", "Mask", "layout", "select", "summarize_update"]
