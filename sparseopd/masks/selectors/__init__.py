"""The rules that choose coordinates, one small file each.

A selector turns a `Comparison` of two models (or of one, for rules that need no update) and its own
settings into boolean tensors by checkpoint name.
"""

from sparseopd.masks.selectors.random import random, random_like
from sparseopd.masks.selectors.threshold import threshold
from sparseopd.masks.selectors.topk import topk

SELECTORS = {"topk": topk, "threshold": threshold, "random": random}
"""Selectors by the name a recipe or `--selector` gives them."""

__all__ = ["SELECTORS", "random", "random_like", "threshold", "topk"]
