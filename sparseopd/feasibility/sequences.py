"""Checks of the sequences a run makes: settings that are allowed and known to disappoint."""

from __future__ import annotations

from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.subject import Subject
from sparseopd.pairs.loading import tokenizer_of

THINKING = "enable_thinking"
"""The variable by which Qwen3's template, and others after it, turns reasoning on and off."""
THINKING_TOKENS = 2048
"""A reasoning model is rarely done with fewer."""


def check_thinking(subject: Subject) -> list[Finding]:
    """Warn of templates that think unless told otherwise, and of responses too short to think in."""
    recipe, found = subject.recipe, []
    able = [model.name for model in subject.known if THINKING in (model.template or "")]
    if not able:
        return []
    chosen = recipe.data.chat_template.get(THINKING)
    if chosen is None:
        found.append(
            Finding(
                "warning",
                "thinking",
                f"the template of {' and '.join(able)} thinks or not by {THINKING}, which is left to it: "
                f"set data.chat_template.{THINKING} to true or false",
            )
        )
    if chosen is not False and recipe.rollout.max_new_tokens < THINKING_TOKENS:
        found.append(
            Finding(
                "warning",
                "thinking",
                f"rollout.max_new_tokens {recipe.rollout.max_new_tokens} cuts most reasoning before its "
                f"answer: raise it to {THINKING_TOKENS} or more, or set data.chat_template.{THINKING}=false",
            )
        )
    return found


def check_positions(subject: Subject) -> list[Finding]:
    """Refuse sequences longer than a model was made for."""
    lengths, found = subject.lengths, []
    for model in subject.known:
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        prompt = lengths.prompt if model.name == "student" else lengths.teacher_prompt
        if limit is None or prompt + lengths.response <= limit:
            continue
        if not lengths.sampled and lengths.response < limit:
            continue  # the prompt's length is a guess, which nothing may be refused for
        found.append(
            Finding(
                "error",
                "length",
                f"a prompt of {prompt:,} and a response of {lengths.response:,} tokens exceed the "
                f"{limit:,} positions of {model.name}: lower rollout.max_new_tokens",
            )
        )
    return found


def check_sampling(subject: Subject) -> list[Finding]:
    """Warn of truncated sampling where importance ratios assume none; sampled-token refuses it."""
    rollout, kind = subject.recipe.rollout, subject.recipe.objective.kind
    if kind != "grpo" or (rollout.top_p == 1 and not rollout.top_k):
        return []
    setting = f"top_p {rollout.top_p:g}" if rollout.top_p < 1 else f"top_k {rollout.top_k}"
    return [
        Finding(
            "warning",
            "sampling",
            f"rollout.{setting} samples from another distribution than {kind} takes its ratios and "
            "gradients of: set rollout.top_p=1 and rollout.top_k=0",
        )
    ]


def check_padding(subject: Subject) -> list[Finding]:
    """Warn of a pad token that is the end of a sequence as well."""
    if subject.student is None:
        return []
    tokenizer = tokenizer_of(subject.student.processor)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    return [
        Finding(
            "warning",
            "special tokens",
            f"the student pads with its end token {tokenizer.eos_token!r}, which tools that leave padding "
            "out of a loss then never teach it to write: give its tokenizer a pad_token of its own",
        )
    ]
