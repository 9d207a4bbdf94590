"""Teachers: a frozen model beside the student or on another device, or a vLLM server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.distill.forward import (
    Inputs,
    completion_states,
    head_of,
    predictions,
    redirected,
)
from sparseopd.distill.objectives.predictions import Head, Predictions, Scores
from sparseopd.errors import PairError, RequestError
from sparseopd.pairs import teacher_device
from sparseopd.recipe import Teacher


class HeldTeacher:
    """A frozen model in this process."""

    def __init__(
        self, model: PreTrainedModel, settings: Teacher, trainer: DistillationTrainer
    ) -> None:
        """Put it where it runs; one that shares the student's device is prepared as TRL prepares it."""
        self._trainer = trainer
        self._home = trainer.accelerator.device
        self.device = teacher_device(settings, self._home)
        model.requires_grad_(False)
        self._model: nn.Module = model
        if settings.quantization is None and self.device != self._home:
            self._model = model.to(self.device)  # pyright: ignore[reportArgumentType]
        elif settings.quantization is None:
            self._model = trainer.accelerator.prepare_model(model, evaluation_mode=True)
        self._model.eval()
        self._head: Head | None = None

    @torch.no_grad()
    def score(
        self, inputs: Inputs, taken: Bool[Tensor, "rows tokens"], temperature: float
    ) -> Predictions:
        """Return its predictions at the taken tokens, on the student's device.

        A teacher that sees more is given its own prompts, "teacher_prompt_ids" and "teacher_prompt_mask".
        """
        seen = {name: _moved(value, self.device) for name, value in _as_seen(inputs).items()}
        if self._head is None:  # once, as it may have come from another device
            inner: Any = self._trainer.accelerator.unwrap_model(self._model)
            self._head = head_of(inner, temperature, self._home)
        states = redirected(
            self._trainer,
            self._model,
            lambda model, given: completion_states(self._trainer, model, given),
            seen,
        )
        return predictions(states, taken, self._head)


@dataclass(frozen=True)
class ServedScores:
    """What a server says of n tokens: its most likely ones, and the one that was sampled."""

    ids: Int[Tensor, "n k"]
    log_probs: Float[Tensor, "n k"]
    sampled: Int[Tensor, "n"]
    sampled_log_probs: Float[Tensor, "n"]

    def top(self, k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """Return the k most likely tokens and their log-probabilities in nats."""
        return self.ids[:, :k], self.log_probs[:, :k]

    def log_probs_at(self, ids: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the log-probabilities of tokens that are among those the server named.

        Raises `RequestError` for another one.
        """
        known = torch.cat([self.sampled[:, None], self.ids], dim=1)
        values = torch.cat([self.sampled_log_probs[:, None], self.log_probs], dim=1)
        found = ids[:, :, None] == known[:, None, :]
        if not bool(found.any(dim=2).all()):
            raise RequestError("the teacher's server was asked for a token that it did not score")
        return values.gather(1, found.int().argmax(dim=2))


class ServedTeacher:
    """A model on a vLLM server, asked through TRL's client for its k most likely tokens."""

    def __init__(self, name: str, settings: Teacher, k: int) -> None:
        """Connect. Raises `PairError` if no server answers within a minute, or vLLM is missing."""
        from trl.generation.vllm_client import VLLMClient

        self._name, self._url, self._k = name, settings.server, k
        try:
            self._client = VLLMClient(base_url=settings.server, connection_timeout=60.0)
        except ImportError as error:
            raise PairError(
                f"TRL's client, which asks the server of the teacher {name}, needs vLLM: "
                "pip install 'trl[vllm]'"
            ) from error
        except Exception as error:  # requests' and TRL's own, of no common base
            raise PairError(
                f"no vLLM server answers at {settings.server} for the teacher {name}: start one with "
                f"vllm serve {settings.path} --max-logprobs {k}"
            ) from error

    def score(
        self, inputs: Inputs, taken: Bool[Tensor, "rows tokens"], temperature: float
    ) -> ServedScores:
        """Return its scores of the taken tokens; the server's temperature is always 1."""
        seen = _as_seen(inputs)
        prompts = _unpadded(seen["prompt_ids"], seen["prompt_mask"])
        completions = _unpadded(seen["completion_ids"], seen["completion_mask"])
        found = self._client.get_sequence_logprobs(
            sequences=[[*prompt, *said] for prompt, said in zip(prompts, completions, strict=True)],
            prompt_lengths=[len(prompt) for prompt in prompts],
            top_logprobs=self._k,
            temperature=temperature,
        )
        device = taken.device
        flat = {name: torch.tensor(_joined(rows), device=device) for name, rows in found.items()}
        if len(flat["logprobs"]) != int(taken.sum()) or not math.isfinite(
            float(flat["actual_logprobs"].sum())
        ):
            raise RequestError(
                f"the teacher's server {self._url} did not score every token: serve {self._name} with "
                f"--max-logprobs {self._k} or more"
            )
        return ServedScores(
            flat["logprob_token_ids"], flat["logprobs"], seen["completion_ids"][taken],
            flat["actual_logprobs"].squeeze(1),
        )  # fmt: skip


def selected(inputs: Inputs, rows: Int[Tensor, "r"]) -> Inputs:
    """Return some rows of a micro batch of text."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() else value
        for name, value in inputs.items()
    }


def score_of(
    teacher: HeldTeacher | ServedTeacher, inputs: Inputs, rows: Tensor, temperature: float
) -> tuple[Scores, Bool[Tensor, "rows tokens"]]:
    """Score the rows of a micro batch that belong to one teacher.

    Returns its scores, and which of the batch's tokens they are of.
    """
    mask = inputs["completion_mask"].bool()
    taken = mask & torch.zeros_like(mask).index_fill(0, rows, True)
    if (
        len(rows) == len(mask) or "pixel_values" in inputs
    ):  # pictures are not split by row everywhere
        return teacher.score(inputs, taken, temperature), taken
    part = selected(inputs, rows)
    return teacher.score(part, part["completion_mask"].bool(), temperature), taken


def _as_seen(inputs: Inputs) -> Inputs:
    """A teacher with prompts of its own sees those before the same completions."""
    if "teacher_prompt_ids" not in inputs:
        return inputs
    own = {
        name.removeprefix("teacher_"): value
        for name, value in inputs.items()
        if name.startswith("teacher_")
    }
    return {**inputs, **own}


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _unpadded(ids: Int[Tensor, "rows length"], mask: Int[Tensor, "rows length"]) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(ids.cpu(), mask.cpu(), strict=True)]


def _joined(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return [token for row in rows for token in row]
