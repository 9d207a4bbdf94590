"""Which tokens a loss is taken at, whose teacher scores them, and how batches are split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.artifacts import read_rows
from sparseopd.distill import opd
from sparseopd.distill.objectives.predictions import TokenLoss, Tokens
from sparseopd.distill.opd import OPDTrainer
from sparseopd.distill.prepare import prepare
from sparseopd.distill.teachers import HeldTeacher
from sparseopd.errors import DataError, RecipeError
from sparseopd.masks import select
from sparseopd.pairs import load_model
from tests.distill.opd_runs import ON_POLICY, of_kind, small, trained
from tests.distill.vllm_server import served

END = 1  # <|end|> of the bundled tokenizers
PAD = 0


class Seen:
    """What the objective was given at every micro batch, and the batch itself."""

    def __init__(self) -> None:
        self.tokens: list[Tokens] = []
        self.losses: list[TokenLoss] = []
        self.batches: list[dict[str, Any]] = []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Record every call of the objective."""
    record = Seen()
    start, losses = OPDTrainer.__init__, OPDTrainer._token_losses

    def watched(objective: Callable[..., TokenLoss]) -> Callable[..., TokenLoss]:
        def call(student: Any, scores: Any, tokens: Tokens) -> TokenLoss:
            record.tokens.append(tokens)
            record.losses.append(objective(student, scores, tokens))
            return record.losses[-1]

        return call

    def init(self: OPDTrainer, *, plan: Any, **settings: Any) -> None:
        start(self, plan=replace(plan, objective=watched(plan.objective)), **settings)

    def token_losses(self: OPDTrainer, student: Any, inputs: dict[str, Any]) -> Any:
        record.batches.append(inputs)
        return losses(self, student, inputs)

    monkeypatch.setattr(OPDTrainer, "__init__", init)
    monkeypatch.setattr(OPDTrainer, "_token_losses", token_losses)
    yield record


@pytest.mark.parametrize("kind", ON_POLICY)
def test_losses_are_taken_at_completion_tokens_up_to_the_end_alone(
    kind: str, seen: Seen, tmp_path: Path
) -> None:
    trained(small(*of_kind(kind), "rollout.max_new_tokens=4"), tmp_path)
    truncated = 0
    for batch, tokens in zip(seen.batches, seen.tokens, strict=True):
        expected = []
        for row in batch["completion_ids"].tolist():
            ended = row.index(END) if END in row else None
            said = row if ended is None else row[: ended + 1]
            truncated += ended is None
            assert ended is None or all(token == PAD for token in row[ended + 1 :])
            expected += said
        assert tokens.ids.tolist() == expected
        assert (batch["prompt_ids"] != PAD).sum() == batch["prompt_mask"].sum()
    assert truncated  # four tokens are too few for a sum, and those are taught no end
    assert sum((tokens.ids == END).sum() for tokens in seen.tokens) > 0


def test_each_prompt_has_its_samples_and_each_completion_one_update(
    seen: Seen, tmp_path: Path
) -> None:
    settings = ["rollout.samples=2", "rollout.updates=3", "train.micro_batch_size=4"]
    recipe = small(*of_kind("sampled-token"), *settings, "train.steps=6")
    _, run = trained(recipe, tmp_path)
    assert len(seen.batches) == 6 * 4  # six updates of sixteen completions, four at a time
    for rollouts in (seen.batches[:12], seen.batches[12:]):
        prompts = [tuple(row) for batch in rollouts for row in batch["prompt_ids"].tolist()]
        assert len(prompts) == 48 and all(prompts.count(prompt) == 2 for prompt in prompts)
    ratios = [loss.extra["ratio"] for loss in seen.losses]
    assert all(torch.allclose(ratio, torch.ones(1), atol=1e-5) for ratio in ratios[:4])
    assert any(not torch.allclose(ratio, torch.ones(1), atol=1e-4) for ratio in ratios[4:12])
    assert all(torch.allclose(ratio, torch.ones(1), atol=1e-5) for ratio in ratios[12:16])
    assert len(run.read_metrics()) == 6


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean"])
def test_micro_batches_add_up_to_the_mean_over_the_update(
    reduction: str, seen: Seen, tmp_path: Path
) -> None:
    recipe = small(f"objective.reduction={reduction}", "train.micro_batch_size=2", "train.steps=1")
    _, run = trained(recipe, tmp_path)
    rows: list[Tensor] = []
    for batch, loss in zip(seen.batches, seen.losses, strict=True):
        lengths = batch["completion_mask"].sum(dim=1).tolist()
        rows += list(loss.loss.detach().split(lengths))
    wanted = torch.cat(rows).mean()
    if reduction == "sequence-mean":
        wanted = torch.stack([row.mean() for row in rows]).mean()
    assert run.read_metrics()[0]["loss"] == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("pair", ["tiny-arithmetic", "tiny-digits"])
def test_rollouts_may_be_sampled_in_parts(
    pair: str, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate = DistillationTrainer._generate_single_turn

    def counted(self: Any, prompt_ids: list[Any], *more: Any) -> Any:
        sizes.append(len(prompt_ids))
        return generate(self, prompt_ids, *more)

    monkeypatch.setattr(DistillationTrainer, "_generate_single_turn", counted)
    trained(small("rollout.batch_size=3", "train.steps=1", pair=pair), tmp_path)
    assert sizes == [3, 3, 2] and len(seen.batches[0]["completion_ids"]) == 8


def routed(*settings: str) -> Any:
    """Differences go to a teacher that is the student itself, sums to the bundled teacher."""
    recipe = small(*settings, pair="tiny-arithmetic-two-teachers")
    recipe.teachers["difference"] = replace(recipe.teachers["sum"], path=recipe.student.path)
    return recipe


def test_each_prompt_is_scored_by_its_own_teacher(seen: Seen, tmp_path: Path) -> None:
    recipe = routed("train.steps=1")
    trained(recipe, tmp_path)
    names = list(recipe.teachers)
    batch = seen.batches[0]
    whose = [names[index] for index in sorted(set(batch["teacher"].tolist()))]
    assert whose == ["sum", "difference"]
    for name, loss in zip(whose, seen.losses, strict=True):
        assert (loss.loss.abs().max() < 1e-6) == (name == "difference")


def test_teachers_count_alike_or_as_given(seen: Seen, tmp_path: Path) -> None:
    for shares, wanted in (("balanced", [0.5, 0.5]), ("{sum: 3, difference: 1}", [0.75, 0.25])):
        trained(routed(f"data.teacher_shares={shares}", "train.batch_size=16"), tmp_path / shares)
        for batch in seen.batches:
            sums = torch.zeros(2).index_add(0, batch["teacher"], batch["weights"].sum(1))
            assert sums.min() > 0
            assert torch.allclose(sums / batch["total"], torch.tensor(wanted), atol=1e-5)
        seen.batches.clear()


def test_teachers_may_count_as_the_data_has_them(seen: Seen, tmp_path: Path) -> None:
    trained(routed("data.teacher_shares=data"), tmp_path)
    assert all(batch["weights"].unique().tolist() == [0.0, 1.0] for batch in seen.batches)


def test_a_teacher_sees_what_is_privileged_and_scores_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("train.steps=1", pair="tiny-arithmetic-hint")
    scored: list[tuple[dict[str, Any], Any, Tensor]] = []
    score = HeldTeacher.score

    def kept(self: HeldTeacher, inputs: Any, taken: Tensor, temperature: float) -> Any:
        found = score(self, inputs, taken, temperature)
        scored.append((inputs, found, taken))
        return found

    monkeypatch.setattr(HeldTeacher, "score", kept)
    trained(recipe, tmp_path)
    teacher = load_model(recipe.teacher)
    (batch, found, taken) = scored[0]
    assert batch["teacher_prompt_mask"].sum() > batch["prompt_mask"].sum()
    every = []
    for prompt, seen, said, mask in zip(
        *(
            batch[name]
            for name in (
                "teacher_prompt_ids",
                "teacher_prompt_mask",
                "completion_ids",
                "completion_mask",
            )
        ),
        strict=True,
    ):
        alone = torch.cat([prompt[seen.bool()], said[mask.bool()]])
        logits = teacher(alone[None]).logits[0, int(seen.sum()) - 1 : -1]
        every.append(logits.log_softmax(-1))
    wanted = torch.cat(every)
    vocabulary = torch.arange(wanted.shape[1]).expand_as(wanted)
    assert int(taken.sum()) == len(wanted)
    assert torch.allclose(found.log_probs_at(vocabulary), wanted, atol=1e-4)


def test_freezing_leaves_bits_and_refuses_words_that_match_nothing(tmp_path: Path) -> None:
    recipe = small("train.freeze=[vision]", pair="tiny-digits")
    before = load_model(recipe.student).state_dict()
    prepared, _ = trained(recipe, tmp_path)
    moved = {
        name
        for name, weight in prepared.student.state_dict().items()
        if not torch.equal(weight, before[name])
    }
    assert moved and not any("vision" in name or "projector" in name for name in moved)
    with pytest.raises(RecipeError, match=r"train.freeze: no tensor matches 'visoin'"):
        prepare(small("train.freeze=[visoin]", pair="tiny-digits"))


def test_masked_runs_of_every_kind_log_the_same_figures(tmp_path: Path) -> None:
    mask = select(small().student.path, selector="random", density=0.1)
    for kind in ON_POLICY:
        _, run = trained(small(*of_kind(kind)), tmp_path / kind, mask=mask)
        for row in run.read_metrics():
            assert {"loss", "kl", "entropy", "grad_norm"} <= set(row) and row["entropy"] > 0


@pytest.mark.parametrize("kind", ["teacher-top-k", "sampled-token"])
def test_a_teacher_on_a_server_gives_what_one_beside_the_student_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("trl.generation.vllm_client", "sparseopd.distill.requirements"):
        monkeypatch.setattr(f"{module}.is_vllm_available", lambda: True)
    recipe = small(*of_kind(kind), "train.steps=2")
    _, held = trained(recipe, tmp_path / "held")
    with served(load_model(recipe.teacher)) as url:
        recipe.teacher.server = url
        _, asked = trained(recipe, tmp_path / "asked")
    for one, other in zip(held.read_metrics(), asked.read_metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-5)


def test_a_server_needs_vllm_on_this_side_too(tmp_path: Path) -> None:
    recipe = small(*of_kind("teacher-top-k"))
    recipe.teacher.server = "http://127.0.0.1:9"
    with pytest.raises(RecipeError, match=r"needs vLLM here: pip install 'trl\[vllm\]'"):
        trained(recipe, tmp_path)


def test_batches_of_rollouts_need_as_many_prompts() -> None:
    with pytest.raises(DataError, match=r"batch_size 8 times rollout.updates 9: lower"):
        prepare(small(*of_kind("sampled-token"), "rollout.updates=9"))


def test_absolute_positions_are_counted_from_the_first_token() -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    trainer: Any = DistillationTrainer.__new__(DistillationTrainer)
    trainer._is_vlm, trainer.model_kwarg_keys = False, ()
    ids = torch.randint(2, 40, (1, 6))
    inputs = {
        "prompt_ids": torch.cat([torch.zeros(1, 7, dtype=torch.long), ids], dim=1),
        "prompt_mask": torch.tensor([[0] * 7 + [1] * 6]),
        "completion_ids": torch.tensor([[5, 6, 7]]),
        "completion_mask": torch.ones(1, 3, dtype=torch.long),
    }
    alone = {**inputs, "prompt_ids": ids, "prompt_mask": torch.ones_like(ids)}
    padded, plain = (opd.completion_states(trainer, model, given) for given in (inputs, alone))
    assert torch.allclose(padded, plain, atol=1e-5)
    assert not model.transformer._forward_pre_hooks


def test_figures_are_means_over_tokens_whatever_the_micro_batches(tmp_path: Path) -> None:
    rows = []
    for micro in (8, 2):
        recipe = small("train.steps=1", f"train.micro_batch_size={micro}", "train.log_every=1")
        rows.append(trained(recipe, tmp_path / str(micro))[1].read_metrics()[0])
    assert rows[0]["kl"] == pytest.approx(rows[0]["loss"], rel=1e-5)
    for name in ("kl", "entropy"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-5)


@pytest.mark.parametrize("pair, samples", [("tiny-arithmetic", 4), ("tiny-digits", 1)])
def test_kept_completions_are_of_several_prompts_and_show_the_question(
    pair: str, samples: int, tmp_path: Path
) -> None:
    recipe = small("train.steps=1", f"rollout.samples={samples}", pair=pair)
    recipe.rollout.completions_every = 1
    _, run = trained(recipe, tmp_path)
    prompts = [row["prompt"] for row in read_rows(run.completions)]
    assert len(set(prompts)) > (1 if pair == "tiny-digits" else 3)
    assert all(prompt.count("<image>") == (pair == "tiny-digits") for prompt in prompts)


def test_autocast_reaches_the_loss_and_not_the_masters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[torch.dtype] = set()
    forward = torch.nn.Linear.forward

    def kept(self: torch.nn.Linear, values: Tensor) -> Tensor:
        result = forward(self, values)
        if torch.is_grad_enabled():  # sampling has none
            found.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Linear, "forward", kept)
    prepared, _ = trained(small("train.bf16=true", "train.steps=1"), tmp_path)
    assert found == {torch.bfloat16}
    assert {weight.dtype for weight in prepared.student.parameters()} == {torch.float32}
