"""What a forward pass keeps for backward, and what passing through a layer takes for a moment.

The sums are those of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models"
(arXiv 2205.05198, §4), taken anew for a decoder of transformers 5.23: gated feed-forward, RMSNorm,
grouped queries, scaled_dot_product_attention. tests/feasibility/test_activations.py compares them with
the bytes that autograd saves. Of one layer and token, with h the hidden width, f the feed-forward
width, q the width of all query heads and kv that of all key-value heads, autograd keeps

    2 norms                 2 x (input h, normalised h)     in float32, normalised h in the weights' dtype
    linear layers' inputs   2 x h (cast anew for each of 5 layers under autocast), q
    attention               3 x q: keys and values are repeated to all heads where there is a mask
    feed-forward            4 x f: gate, its activation, up, their product
    norms of q and k        2 x (q + kv), in models that have them

and of a layer, the padding mask as numbers: rows x length², in the dtype of the attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparseopd.feasibility.shapes import TextShape, VisionShape

Numbers = Literal["float32", "half", "autocast"]
"""How a model computes: everything in float32, everything in 16 bits (its weights are), or float32
weights whose products are 16-bit, as autocast makes them."""


@dataclass(frozen=True)
class Batch:
    """Sequences that go through a model at once."""

    rows: int
    length: int
    """Tokens of each, padding included."""

    @property
    def tokens(self) -> int:
        """Return the tokens of all rows."""
        return self.rows * self.length


def numbers_of(dtype: str, *, autocast: bool) -> Numbers:
    """Return how a model whose weights are held in `dtype` computes."""
    if dtype != "float32":
        return "half"
    return "autocast" if autocast else "float32"


def product_bytes(numbers: Numbers) -> int:
    """Return the bytes of a number that comes out of a linear layer."""
    return 4 if numbers == "float32" else 2


def state_bytes(numbers: Numbers) -> int:
    """Return the bytes of a number of the residual stream: float32 weights keep it in float32."""
    return 2 if numbers == "half" else 4


def saved(text: TextShape, batch: Batch, numbers: Numbers, *, checkpointing: bool) -> int:
    """Return the bytes that a forward pass through all layers keeps; with `checkpointing`, their inputs."""
    if checkpointing:
        return text.layers * batch.tokens * text.hidden * state_bytes(numbers)
    return text.layers * layer_saved(text, batch, numbers)


def layer_saved(text: TextShape, batch: Batch, numbers: Numbers) -> int:
    """Return the bytes that a forward pass through one layer keeps for backward."""
    return batch.tokens * _per_token(text, numbers) + _mask(batch, numbers)


def backward_workspace(text: TextShape, batch: Batch, numbers: Numbers) -> int:
    """Return the bytes of gradients of one layer's activations: its feed-forward or its attention part."""
    widest = max(3 * text.intermediate, 4 * text.queries)
    return batch.tokens * (widest * product_bytes(numbers) + 2 * text.hidden * state_bytes(numbers))


def forward_workspace(text: TextShape, batch: Batch, numbers: Numbers) -> int:
    """Return the bytes that a forward pass without gradient takes: one layer, and the states between."""
    wide = max(3 * text.intermediate, 4 * text.queries) * product_bytes(numbers)
    return batch.tokens * (wide + 3 * text.hidden * state_bytes(numbers)) + _mask(batch, numbers)


def cache(text: TextShape, batch: Batch, numbers: Numbers) -> int:
    """Return the bytes of the keys and values of all layers, and of the layer that is being extended.

    Under autocast the rotary embedding is float32 and makes the keys so, and the cache keeps values in
    the dtype of keys.
    """
    return (text.layers + 1) * 2 * batch.tokens * text.keys * state_bytes(numbers)


def vision_saved(vision: VisionShape, patches: int, numbers: Numbers) -> int:
    """Return what a trained vision tower keeps: 8 hidden widths and 3 of its feed-forward, a patch and layer.

    Two layer norms keep input and output, attention its query, key, value and output; the activation
    of the feed-forward part its input and two products.
    """
    width = 8 * vision.hidden + 3 * vision.intermediate
    return patches * vision.layers * width * product_bytes(numbers)


def _per_token(text: TextShape, numbers: Numbers) -> int:
    product, state = product_bytes(numbers), state_bytes(numbers)
    norms = 2 * text.hidden * (4 + state)
    inputs = (5 if numbers == "autocast" else 2) * text.hidden * product
    attention = 4 * text.queries * product + 4 * text.heads
    normed = (text.queries + text.keys) * (4 + product) if text.normalised_queries else 0
    return norms + inputs + attention + normed + 4 * text.intermediate * product


def _mask(batch: Batch, numbers: Numbers) -> int:
    return batch.rows * batch.length**2 * product_bytes(numbers)
