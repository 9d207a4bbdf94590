"""The objective and rollout sections of a recipe: what is learned, on which completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sparseopd.errors import RecipeError
from sparseopd.ranges import Count, CountOrZero, Fraction, Positive

Kind = Literal[
    "reverse-kl",
    "forward-kl",
    "jsd",
    "teacher-top-k",
    "student-top-k",
    "sampled-token",
    "offline-kd",
    "sft",
    "grpo",
]
Outside = Literal["bucket", "renormalise", "ignore"]
Reduction = Literal["token-mean", "sequence-mean"]

CONTRASTS = ("offline-kd", "sft", "grpo")
"""Kinds that do not distil on the student's own completions, but stand beside those that do."""
GIVEN = ("offline-kd", "sft")
"""Kinds that learn from given completions, one for each prompt."""
WITHOUT_TEACHER = ("sft", "grpo")
"""Kinds that need no teacher's weights."""
SERVED = ("teacher-top-k", "sampled-token")
"""Kinds for which a server's most likely tokens are enough."""

_OWN: dict[str, dict[str, Any]] = {
    "jsd": {"beta": 0.5},
    "teacher-top-k": {"k": 32, "outside": "bucket"},
    "student-top-k": {"k": 32, "outside": "renormalise"},
    "sampled-token": {"clip": 0.2, "max_log_ratio": 5.0},
    "grpo": {"clip": 0.2},
}
"""Each kind's own settings with their defaults."""


@dataclass(kw_only=True)
class Objective:
    """What the student minimises at every token (PAPER.md, §2). Other kinds' settings are refused."""

    kind: Kind = "reverse-kl"
    """reverse-kl KL(student ‖ teacher), forward-kl KL(teacher ‖ student) and jsd over the whole
    vocabulary; teacher-top-k forward KL and student-top-k reverse KL over k tokens; sampled-token, the
    policy gradient of reverse KL from the sampled token alone. For contrast: offline-kd, cross entropy
    on the teacher's completions; sft, on the reference answers; grpo, with the grader as reward."""
    beta: Fraction | None = None
    """Only jsd: the generalized Jensen-Shannon interpolation, 0.5 by default."""
    k: Count | None = None
    """Only the top-k kinds: tokens in the support, 32 by default."""
    outside: Outside | None = None
    """Only the top-k kinds: what becomes of the probability outside the support. bucket: one more token
    that holds it (the default of teacher-top-k); renormalise over the support (of student-top-k);
    ignore: the plain sum over the support, for teacher-top-k alone."""
    clip: Positive | None = None
    """Only sampled-token and grpo: how far the importance ratio may leave 1 before its token stops
    counting, 0.2 by default."""
    max_log_ratio: Positive | None = None
    """Only sampled-token: the bound on |log π_student - log π_teacher| of a token, in nats; 5 by default."""
    reduction: Reduction = "token-mean"
    """Whether every token of an update counts alike, or every completion. The contrasts count tokens."""


@dataclass(kw_only=True)
class Rollout:
    """How the student samples, in training and in evaluation."""

    max_new_tokens: Count = 512
    temperature: Positive = 1.0
    """Of sampling, and of both models' probabilities in the loss."""
    top_p: Fraction = 1.0
    top_k: CountOrZero = 0
    samples: Count = 1
    """Completions of each prompt, in training on the student's own."""
    updates: Count = 1
    """Optimizer updates made of one batch of rollouts, each on its own share of it."""
    batch_size: Count | None = None
    """Completions sampled at once by one process. Default: a whole batch of rollouts."""
    vllm: Literal["colocate", "server"] | None = None
    """Sample by vLLM through TRL, in the training process or on a server. Default: batched generate."""
    vllm_server: str | None = None
    """URL of the student's vLLM server, with vllm=server."""
    completions_every: CountOrZero = 10
    """Steps between two sets of completions kept in completions.jsonl; 0 for none."""


def check_support(objective: Objective) -> None:
    """Raise `RecipeError` for a support that leaves nothing to learn."""
    if objective.k == 1 and objective.outside == "renormalise":
        raise RecipeError(
            "objective.k=1 with outside=renormalise learns nothing, as one token has all of its support's "
            "probability: use bucket, or a larger k"
        )


def without_foreign(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the settings of other kinds from a section whose kind is being changed."""
    own = {name for settings in _OWN.values() for name in settings}
    keep = _OWN.get(str(values.get("kind")), {})
    return {name: value for name, value in values.items() if name not in own or name in keep}


def check_objective(objective: Objective) -> None:
    """Fill the defaults of a kind. Raises `RecipeError` for a setting of another kind, or a trap."""
    own = _OWN.get(objective.kind, {})
    for name in ("beta", "k", "outside", "clip", "max_log_ratio"):
        if getattr(objective, name) is None:
            setattr(objective, name, own.get(name))
        elif name not in own:
            kinds = " or ".join(kind for kind, settings in _OWN.items() if name in settings)
            raise RecipeError(
                f"objective.{name} does nothing with objective.kind={objective.kind}: use {kinds}, "
                "or drop it"
            )
    if objective.kind == "student-top-k" and objective.outside == "ignore":
        raise RecipeError(
            "objective.outside=ignore makes a reverse KL over the student's top k biased: the student "
            "lowers it by moving probability out of the support; use renormalise or bucket"
        )


def check_rollout(rollout: Rollout, objective: Objective) -> None:
    """Raise `RecipeError` for settings of rollouts that would do nothing, or cannot work."""
    if rollout.vllm_server is not None and rollout.vllm != "server":
        raise RecipeError("rollout.vllm_server does nothing without rollout.vllm=server: set it")
    if rollout.vllm == "server" and rollout.vllm_server is None:
        raise RecipeError("rollout.vllm=server needs the server's URL: set rollout.vllm_server")
    if rollout.batch_size is not None and (rollout.vllm or objective.kind in ("sft", "grpo")):
        what = f"rollout.vllm={rollout.vllm}" if rollout.vllm else objective.kind
        raise RecipeError(f"rollout.batch_size does nothing with {what}: drop it")
    if objective.kind == "sampled-token" and (rollout.top_p < 1 or rollout.top_k):
        raise RecipeError(
            "sampled-token takes its samples for the student's own, and rollout.top_p or top_k cuts some "
            "tokens off: leave both out"
        )
    if objective.kind == "grpo" and rollout.samples < 2:
        raise RecipeError(
            "grpo compares the completions of one prompt and rollout.samples is 1: set it to 4 or more"
        )
