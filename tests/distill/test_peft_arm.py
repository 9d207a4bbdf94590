"""LoRA and SHiRA as control arms: only they are trained, at the size asked for, to the same bits."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from sparseopd.artifacts import RunDir
from sparseopd.distill import discover, resume, train
from sparseopd.distill.peft_arm import attach, chosen_rank
from sparseopd.distill.trainer import OPDTrainer
from sparseopd.errors import RecipeError
from sparseopd.evaluation.arms import arms_for, training_record
from sparseopd.feasibility import check_recipe
from sparseopd.feasibility.request import Request
from sparseopd.masks import select
from sparseopd.pairs import load_model, local_folder
from sparseopd.pairs.tensors import open_tensors
from sparseopd.recipe import Recipe
from sparseopd.settings.peft import Peft, PeftType
from tests.conftest import make_qwen3
from tests.distill.opd_runs import small

TYPES: list[PeftType] = ["lora", "shira"]
EACH = 5184
"""Σ(m + n) over the 21 linear layers of the students of the arithmetic pairs: a rank's price."""


def of(peft: str, *settings: str, pair: str = "tiny-arithmetic") -> Recipe:
    words = ["train.steps=2", "optimizer.lr=3e-3", "train.save_dtype=float32", *settings]
    return small(f"train.peft={{{peft}}}", *words, pair=pair)


def moved(recipe: Recipe, run: RunDir) -> dict[str, int]:
    """How many coordinates of each tensor differ from the source."""
    before, after = open_tensors(local_folder(recipe.student)), open_tensors(run.checkpoint)
    assert before.keys() == after.keys()
    counts = {name: int((before[name] != after[name]).sum()) for name in before.keys()}
    return {name: count for name, count in counts.items() if count}


def same_bits(one: RunDir, other: RunDir) -> bool:
    left, right = open_tensors(one.checkpoint), open_tensors(other.checkpoint)
    return all(torch.equal(left[name], right[name]) for name in left.keys())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("pair, layers", [("tiny-arithmetic", 21), ("tiny-digits", 28)])
def test_the_checkpoint_differs_from_the_source_by_the_adapter_alone(
    kind: str, pair: str, layers: int, tmp_path: Path
) -> None:
    recipe = of(f"type: {kind}, rank: 2", pair=pair)
    run = train(recipe, tmp_path / "run")
    adapter, counts = run.read_facts().adapter, moved(recipe, run)
    assert adapter is not None and adapter["layers"] == len(counts) == layers
    assert all(name.endswith(".weight") and "norm" not in name for name in counts)
    assert not any("embed" in name or "head" in name for name in counts)
    if kind == "shira":
        assert 0.9 * adapter["k"] < sum(counts.values()) <= adapter["k"]
    else:
        assert sum(counts.values()) > adapter["k"]
    student = load_model(recipe.student)
    merged = PeftModel.from_pretrained(student, str(run.adapter)).merge_and_unload()  # pyright: ignore
    whole = load_model(recipe.student).from_pretrained(run.checkpoint, dtype=torch.float32)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, merged.state_dict()[name]), name  # pyright: ignore


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("k, rank", [(EACH, 1), (7_775, 1), (7_777, 2), (31_474, 6)])
def test_the_rank_comes_nearest_to_the_wished_number_of_weights(
    kind: PeftType, k: int, rank: int
) -> None:
    recipe = of(f"type: {kind}, k: {k}")
    attached = attach(recipe, load_model(recipe.student))
    counted = sum(one.numel() for one in attached.model.parameters() if one.requires_grad)
    assert (attached.facts["rank"], attached.facts["k"]) == (rank, rank * EACH)
    assert counted == rank * EACH
    assert f"{rank * EACH:,} trainable weights, where train.peft.k asks for {k:,}" in (
        attached.note(k)
    )


def test_sizes_that_layers_cannot_have_are_refused() -> None:
    layers = {"small": torch.Size([4, 12]), "large": torch.Size([20, 20])}
    with pytest.raises(RecipeError, match=r"k is 55 and rank 1 has 56 .* ask for 56 or more"):
        chosen_rank(Peft(type="lora", k=55), layers)
    assert chosen_rank(Peft(type="lora", k=560), layers) == 10
    assert chosen_rank(Peft(type="shira", rank=3), layers) == 3
    with pytest.raises(RecipeError, match=r"k is 560, and small is too small .* above 3 \(168 "):
        chosen_rank(Peft(type="shira", k=560), layers)
    with pytest.raises(RecipeError, match="rank is 4, and small"):
        chosen_rank(Peft(type="shira", rank=4), layers)


@pytest.mark.parametrize("kind", TYPES)
def test_a_seed_fixes_every_bit(kind: str, tmp_path: Path) -> None:
    words = f"type: {kind}, rank: 1"
    first, again, other = (
        train(of(words, f"seed={seed}"), tmp_path / name)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert same_bits(first, again) and not same_bits(first, other)


@pytest.mark.parametrize("kind", TYPES)
def test_what_peft_draws_comes_from_the_seed_and_disturbs_no_other_stream(kind: str) -> None:
    recipe, drawn = of(f"type: {kind}, rank: 1", "seed=3"), []
    for start in (1, 2):
        student = make_qwen3(tied=False)
        torch.manual_seed(start)
        attached = attach(recipe, student)
        after = torch.rand(4)
        torch.manual_seed(start)
        assert torch.equal(after, torch.rand(4))
        layer: Any = attached.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
        indices = layer.shira_indices if kind == "shira" else layer.lora_A
        drawn.append(
            indices["default"] if kind == "shira" else indices["default"].weight.detach().clone()
        )
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "words, pair", [("type: lora, rank: 1", "tiny-digits"), ("type: shira, rank: 1", "tiny-arithmetic")]
)  # fmt: skip
def test_a_resumed_run_ends_in_the_bits_of_one_that_never_stopped(
    words: str, pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = of(
        words, "train.steps=3", "train.save_every=1", "optimizer.schedule=linear", pair=pair
    )
    whole, step, seen = train(recipe, tmp_path / "whole"), OPDTrainer.training_step, 0

    def killed(self: OPDTrainer, *inputs: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > 2:
            raise KeyboardInterrupt
        return step(self, *inputs, **settings)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(OPDTrainer, "training_step", killed)
        train(recipe, tmp_path / "stopped")
    run = resume(tmp_path / "stopped")
    assert same_bits(whole, run) and whole.read_facts().adapter == run.read_facts().adapter
    weights = "adapter_model.safetensors"
    assert (whole.adapter / weights).read_bytes() == (run.adapter / weights).read_bytes()
    assert [row["loss"] for row in whole.read_metrics()] == [
        row["loss"] for row in run.read_metrics()
    ]
    assert not run.resume.exists()


def test_a_run_killed_after_its_last_step_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = of("type: shira, rank: 1", "train.save_every=2")
    whole, module = train(recipe, tmp_path / "whole"), importlib.import_module(train.__module__)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(module, "save_checkpoint", kill)
        train(recipe, tmp_path / "run")
    assert same_bits(whole, resume(tmp_path / "run"))


def test_frozen_layers_get_no_adapter(tmp_path: Path) -> None:
    recipe = of("type: lora, rank: 1", "train.freeze=[vision]", pair="tiny-digits")
    run = train(recipe, tmp_path / "run")
    assert not any("vision" in name for name in moved(recipe, run))
    assert (run.read_facts().adapter or {})["layers"] == 14
    with pytest.raises(RecipeError, match=r"none that train\.freeze leaves free"):
        train(of("type: lora, rank: 1", "train.freeze=[attention, ffn]"), tmp_path / "none")


@pytest.mark.parametrize(
    "settings",
    [
        ["objective.kind=sft"],
        ["objective.kind=offline-kd"],
        ["objective.kind=grpo", "rollout.samples=4"],
    ],
)
def test_the_contrasts_train_adapters_too(settings: list[str], tmp_path: Path) -> None:
    recipe = of("type: shira, rank: 1", "train.steps=1", *settings)
    run = train(recipe, tmp_path / "run")
    facts = run.read_facts()
    assert (facts.kind, facts.name) == ("shira", "SHiRA rank 1")
    assert 0 < sum(moved(recipe, run).values()) <= EACH


def test_checkpointing_of_activations_changes_no_loss(tmp_path: Path) -> None:
    losses = [
        [row["loss"] for row in train(recipe, tmp_path / name).read_metrics()]
        for name in ("true", "false")
        for recipe in [of("type: lora, rank: 1", f"train.gradient_checkpointing={name}")]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-4)


def test_the_learning_rate_is_the_full_runs_and_groups_reach_the_adapter(tmp_path: Path) -> None:
    group = "optimizer.groups=[{match: ['*lora_B*'], lr: 1e-9}]"
    recipe = of("type: lora, rank: 1", "optimizer.masked_lr=1", group)
    run = train(recipe, tmp_path / "run")
    assert run.read_facts().lr == 3e-3
    source, tuned = open_tensors(local_folder(recipe.student)), open_tensors(run.checkpoint)
    # B starts at zero and hardly moves, so neither does its product with A.
    changes = [(tuned[name] - source[name].float()).abs().max() for name in source.keys()]
    assert 0 < max(changes) < 1e-7


def test_an_evaluation_knows_the_run_for_what_it_is(tmp_path: Path) -> None:
    recipe = of("type: lora, rank: 1", "train.steps=1")
    run = train(recipe, tmp_path / "run")
    (arm,) = arms_for([run], recipe, source=False, teacher=False)
    assert (arm.kind, arm.name) == ("lora", "LoRA rank 1")
    whole = sum(weight.numel() for weight in load_model(recipe.student).parameters())
    assert training_record(arm).density == pytest.approx(EACH / whole)
    assert run.read_facts().versions["peft"]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (["train.peft={type: lora}"], "needs one of rank and k, and has neither"),
        (["train.peft={type: lora, rank: 1, k: 9}"], "needs one of rank and k, and has both"),
        (["train.peft={type: shira, rank: 1, alpha: 2}"], "alpha does nothing with shira"),
        (["train.peft={type: dora, rank: 1}"], "train.peft.type is 'dora'"),
        (["train.peft={type: lora, rank: 0}"], "train.peft.rank is 0"),
        (["train.peft={type: lora, ranks: 1}"], "did you mean train.peft.rank"),
        (["train.peft.rank=1", "train.peft.type=lora", "train.snapshots=[1]"], "train.snapshots"),
        (["train.peft={type: lora, rank: 1}", "rollout.vllm=colocate"], "rollout.vllm=colocate"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        small(*settings)


def test_runs_that_train_no_adapter_refuse_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = of("type: lora, rank: 1")
    mask = select(recipe.student.path, selector="random", density=0.1)
    with pytest.raises(RecipeError, match="trains an adapter and --mask a mask"):
        train(recipe, tmp_path / "run", mask=mask)
    with pytest.raises(RecipeError, match=r"discover trains all weights and train\.peft asks"):
        discover(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"student\.dtype bfloat16 would round them"):
        train(of("type: lora, rank: 1", "student.dtype=bfloat16"), tmp_path / "run")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="does not train shards of FSDP"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_check_does_not_take_it_for_a_full_run(tmp_path: Path) -> None:
    recipe = of("type: lora, rank: 1")
    report = check_recipe(Request(recipe=recipe, output=tmp_path))
    assert report.memory is None and not report.errors
    (found,) = [one for one in report.findings if one.topic == "memory"]
    assert found.level == "unknown" and "PEFT" in found.sentence
    masked = check_recipe(Request(recipe=recipe, density=0.1, output=tmp_path))
    assert [one.topic for one in masked.errors] == ["memory"]
