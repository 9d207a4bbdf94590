"""What objectives are given: two models' views of n tokens, and the tokens; and what they return."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from sparseopd.distill.objectives.chunked import Scored, score
from sparseopd.distill.objectives.tiles import Shape


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: softcap(scale · (weight · hidden + bias)) / temperature."""

    weight: Float[Tensor, "v h"]
    bias: Float[Tensor, "v"] | None = None
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


class Scores(Protocol):
    """A teacher's view of n tokens; a server's is no more than this."""

    def top(self, k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Return the k most likely tokens, most likely first, and their log-probabilities in nats."""
        ...

    def log_probs_at(self, ids: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the log-probabilities of given tokens, in nats."""
        ...


@dataclass(frozen=True)
class Predictions:
    """A model's distributions over the vocabulary at n tokens, never held in full (see chunked.py).

    These are `Scores` of a model at hand. Each method is one pass over the vocabulary.
    """

    hidden: Float[Tensor, "n h"]
    """Of the last layer, where each token is predicted."""
    head: Head

    def top(self, k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Return the min(k, v) most likely tokens and their log-probabilities, without gradient."""
        none = torch.empty((len(self.hidden), 0), dtype=torch.long, device=self.hidden.device)
        with torch.no_grad():
            found = self.scored(none, k)
        return found.ids, found.log_probs

    def log_probs_at(self, ids: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the log-probabilities of given tokens, on the ids' device.

        They are differentiable in hidden states, weight and bias.
        """
        return self.scored(ids).log_probs.to(ids.device)

    def scored_at(self, ids: Int[Tensor, "n k"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n"]]:
        """Return what `log_probs_at` does, and the entropy over the vocabulary, without gradient."""
        found = self.scored(ids)
        return found.log_probs, found.entropy

    def scored(self, ids: Int[Tensor, "n m"], k: int = 0) -> Scored:
        """Score given tokens, and after them the min(k, v) most likely ones, which are differentiable too."""
        head = self.gathered().head
        shape = Shape(head.scale, head.softcap, head.temperature)
        return score(self.hidden, head.weight, head.bias, ids.to(self.hidden.device), k, shape)

    def gathered(self) -> Predictions:
        """Return the same with a plain head: under FSDP2, every pass over a sharded one gathers it anew."""
        weight, bias = self.head.weight, self.head.bias
        if not isinstance(weight, DTensor):
            return self
        # Gathered weights are fp32 masters, which each pass would round to the products' dtype again.
        weight = weight.full_tensor().to(self.hidden.dtype)
        bias = bias.full_tensor() if isinstance(bias, DTensor) else bias
        return replace(self, head=replace(self.head, weight=weight, bias=bias))


class Tokens(NamedTuple):
    """The n completion tokens a loss is taken at."""

    ids: Int[Tensor, "n"]
    """What the student sampled."""
    old_log_probs: Float[Tensor, "n"] | None = None
    """Their log-probabilities under the student that sampled them; None if that is this student."""


class TokenLoss(NamedTuple):
    """An objective at n tokens, in nats."""

    loss: Float[Tensor, "n"]
    """What is minimised; only this carries a gradient, to the student alone."""
    entropy: Float[Tensor, "n"]
    """Of the student's distribution over the whole vocabulary."""
    kl: Float[Tensor, "n"]
    """KL(student ‖ teacher), exact or estimated from the sampled token (log π_student - log π_teacher)."""
    extra: dict[str, Tensor] = {}  # noqa: RUF012
    """Further figures of each token, to be averaged: (n,) each."""


@torch.no_grad()
def top_and_sampled(
    scores: Scores, k: int, sampled: Int[Tensor, "n"]
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"], Float[Tensor, "n"]]:
    """Return the k most likely tokens, their log-probabilities, and those of the sampled tokens.

    A model at hand answers in one pass. All are on the device of `sampled`, without gradient.
    """
    if isinstance(scores, Predictions):
        found = scores.scored(sampled[:, None], k)
        ids, log_probs, at_sampled = (
            found.ids[:, 1:],
            found.log_probs[:, 1:],
            found.log_probs[:, :1],
        )
    else:
        ids, log_probs = scores.top(k)
        at_sampled = scores.log_probs_at(sampled[:, None])
    device = sampled.device
    return ids.to(device), log_probs.to(device), at_sampled.squeeze(1).to(device)
