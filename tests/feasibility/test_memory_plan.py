"""The estimate adds up, follows every setting, and knows what lowers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config
from trl.kernels import chunked_divergence
from trl.trainer.distillation_config import DistillationConfig

from sparseopd.distill.objectives import tiles
from sparseopd.feasibility import phases
from sparseopd.feasibility.memory import Estimate, estimate, weight_bytes
from sparseopd.feasibility.optimizers import state_bytes
from sparseopd.feasibility.plan import Lengths, Plan, PlannedTeacher
from sparseopd.feasibility.planning import VLLM_SHARE, sampled_at_once
from sparseopd.feasibility.remedies import remedies
from sparseopd.feasibility.room import check_memory
from sparseopd.feasibility.shapes import ModelShape, shape_of
from sparseopd.recipe import Optimizer, Teacher
from sparseopd.settings.batches import batch_shape
from tests.feasibility.folders import QWEN3_1B7, QWEN3_4B, STUDENT, look, one, write_model

N, GIB = 1_720_574_976, 2**30
LENGTHS = Lengths(prompt=1024, teacher_prompt=1024, response=7168)


@pytest.fixture(scope="module")
def small() -> ModelShape:
    return shape_of(Qwen3Config(**QWEN3_1B7))


@pytest.fixture(scope="module")
def large() -> ModelShape:
    return shape_of(Qwen3Config(**QWEN3_4B))


@pytest.fixture
def plan(small: ModelShape, large: ModelShape) -> Plan:
    """The paper's large to small, in full, on a GPU."""
    return Plan(
        student=small, dtype="float32", kind="reverse-kl", lengths=LENGTHS, micro=4, accumulation=32,
        teachers={"teacher": PlannedTeacher(large, Teacher(path="", dtype="bfloat16"))},
        rollouts=128, optimizer=Optimizer(), device="cuda", autocast=True, device_bytes=80 * GIB,
    )  # fmt: skip


def masked(plan: Plan, density: float, **changes: Any) -> Plan:
    counts = {name: round(density * numel) for name, numel in plan.student.numels.items()}
    return replace(plan, masked=counts, **changes)


def test_a_full_run_holds_weights_and_two_moments(plan: Plan) -> None:
    found = estimate(plan)
    assert found.held["student weights"] == 4 * N
    assert found.held["teacher weights"] == 2 * plan.teachers["teacher"].shape.parameters
    assert found.held["optimizer state"] == 8 * N
    assert found.phases["update"]["gradients"] == 4 * N
    assert found.phases["update"]["the optimizer's temporaries"] == 4 * N
    assert found.phases["loss"]["gradients"] == 4 * N  # of the 31 passes before
    assert "gradients" not in estimate(replace(plan, accumulation=1)).phases["loss"]


def test_the_peak_is_what_is_held_and_the_largest_phase(plan: Plan) -> None:
    found = estimate(plan)
    assert found.peak == sum(found.held.values()) + max(
        sum(items.values()) for items in found.phases.values()
    )
    assert found.of(found.largest) == found.peak


def test_a_masked_run_holds_k_vectors(plan: Plan) -> None:
    k = masked(plan, 0.1).k
    found = estimate(masked(plan, 0.1, dtype="bfloat16"))
    assert found.held["student weights"] == 2 * N
    assert found.held["optimizer state"] == 8 * k
    assert found.held["masters and indices"] == 8 * k
    assert found.phases["update"]["gradients"] == 4 * k
    largest = 2 * 6144 * 2048  # the embedding is tied: its gradient is the head's
    head = round(0.1 * 151936 * 2048)
    assert found.phases["last layer"]["gradients"] == 4 * (k + head) + largest
    assert found.phases["first layer"]["gradients"] == 4 * k
    assert found.phases["last layer"]["gradient of the output head"] == 4 * 151936 * 2048
    assert found.peak < estimate(plan).peak


def test_the_head_of_a_mask_without_it_needs_no_gradient(plan: Plan) -> None:
    sparse = masked(plan, 0.1)
    assert sparse.masked is not None
    without = replace(sparse, masked={**sparse.masked, "model.embed_tokens.weight": 0})
    assert "gradient of the output head" not in estimate(without).phases["loss"]


def test_an_untied_heads_gradient_is_gathered_before_the_layers(plan: Plan) -> None:
    untied = shape_of(Qwen3Config(**{**QWEN3_1B7, "tie_word_embeddings": False}))
    sparse = estimate(masked(replace(plan, student=untied), 0.1)).phases
    assert sparse["loss"]["gradient of the output head"] == 4 * 151936 * 2048
    assert "gradient of the output head" not in sparse["last layer"]
    full = estimate(replace(plan, student=untied)).phases["last layer"]
    assert full["gradient of the output head"] == 4 * 151936 * 2048


def test_frozen_parameters_need_neither_gradient_nor_state(plan: Plan) -> None:
    frozen = frozenset(name for name in plan.student.numels if "embed" in name)
    found = estimate(replace(plan, frozen=frozen))
    left = N - 151936 * 2048
    assert found.held["optimizer state"] == 8 * left
    assert found.phases["update"]["gradients"] == 4 * left
    assert found.held["student weights"] == 4 * N


def test_autocast_copies_the_trained_linear_layers(plan: Plan) -> None:
    linear = sum(plan.student.numels[name] for name in plan.student.linear)
    assert estimate(plan).phases["loss"]["16-bit copies of weights"] == 2 * linear
    without = estimate(replace(plan, autocast=False)).phases["loss"]
    assert "16-bit copies of weights" not in without


def test_a_quantized_teacher_keeps_its_embedding(large: ModelShape) -> None:
    linear = sum(large.numels[name] for name in large.linear)
    rest = large.parameters - linear
    eight, four = (weight_bytes(large, "bfloat16", bits) for bits in ("8bit", "4bit"))
    assert linear + 2 * rest < eight < 1.01 * (linear + 2 * rest)
    assert 0.5 * linear + 2 * rest < four < 0.52 * linear + 2 * rest


def test_a_teacher_elsewhere_takes_nothing_here(plan: Plan) -> None:
    away = replace(plan.teachers["teacher"], beside=False)
    found = estimate(replace(plan, teachers={"teacher": away}))
    assert "teacher weights" not in found.held
    assert "one layer of the teacher" not in found.phases["scoring"]


def test_several_teachers_are_told_apart(plan: Plan) -> None:
    one_teacher = plan.teachers["teacher"]
    found = estimate(replace(plan, teachers={"a": one_teacher, "b": one_teacher}))
    assert found.held["teacher weights (a)"] == found.held["teacher weights (b)"] > 0


@pytest.mark.parametrize(
    "name, full, vector",
    [
        ("adamw", 8.0, 8.0),
        ("adam", 8.0, 8.0),
        ("sgd", 0.0, 0.0),
        ("adafactor", 4 * (64 + 96) / (64 * 96), 4.0),
        ("adamw-8bit", 2 + 8 / 256, 2 + 8 / 256),
        ("paged-adamw-8bit", 2 + 8 / 256, 2 + 8 / 256),
    ],
)
def test_state_is_counted_by_optimizer(name: Any, full: float, vector: float) -> None:
    settings = Optimizer(name=name)
    assert state_bytes(settings, 64 * 96, (64, 96)) == pytest.approx(64 * 96 * full)
    assert state_bytes(settings, 64 * 96, None) == pytest.approx(64 * 96 * vector)
    if name == "sgd":
        assert state_bytes(Optimizer(name="sgd", momentum=0.9), 10, None) == 40


@pytest.mark.parametrize("name", ["Adafactor", "AdamW", "SGD"])
def test_torch_holds_that_state(name: str) -> None:
    weight = torch.nn.Parameter(torch.randn(64, 96))
    optimizer = getattr(torch.optim, name)([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    held = sum(t.nbytes for t in optimizer.state[weight].values() if t.dim())
    assert held == state_bytes(Optimizer(name=name.lower()), 64 * 96, (64, 96))  # pyright: ignore


def test_tiles_are_those_of_the_code_that_makes_them() -> None:
    tile = chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE
    assert tile == phases.FULL_TILE
    assert (phases.CPU_TILE, phases.DEVICE_TILE) == (tiles.CPU_TILE, tiles.DEVICE_TILE)


def test_what_is_planned_is_what_training_does() -> None:
    share = DistillationConfig.__dataclass_fields__["vllm_gpu_memory_utilization"]
    assert share.default == VLLM_SHARE
    words = ("train.batch_size=8", "rollout.samples=4", "rollout.updates=2")
    for more, at_once in (((), 64), (("rollout.batch_size=5",), 5), (("objective.kind=sft",), 0)):
        recipe = look(STUDENT, STUDENT, *words, *more)[0].recipe
        shape = batch_shape(recipe.objective.kind, recipe.train, recipe.rollout)
        assert sampled_at_once(recipe, shape) == at_once


def test_logits_depend_on_the_objective_and_the_device(plan: Plan) -> None:
    def logits(**changes: Any) -> int:
        one_row = replace(plan, micro=1, **changes)
        return estimate(one_row).phases["loss"]["logits"]

    assert logits() >= 2 * 4096 * 32768 * 4
    assert logits(kind="teacher-top-k") < logits() < logits(device="cpu")
    assert logits(kind="sft") >= 4 * 8192 * 151936


def test_rollouts_fill_the_cache_and_vllm_has_its_own(plan: Plan) -> None:
    whole = estimate(plan).phases["sampling"]["KV cache"]
    assert whole == pytest.approx(128 * 8192 * 28 * 2 * 1024 * 4, rel=0.04)
    assert "sampling" not in estimate(replace(plan, rollouts=0)).phases
    served = estimate(replace(plan, vllm_share=0.3))
    assert "sampling" not in served.phases and served.held["vLLM"] == int(0.3 * 80 * GIB)


def test_checkpointing_and_smaller_batches_lower_the_peak(plan: Plan) -> None:
    def kept(**changes: Any) -> int:
        return estimate(replace(plan, **changes)).phases["loss"]["activations"]

    assert kept(checkpointing=True) == 28 * 4 * 8192 * 2048 * 4 < kept() / 10
    again = estimate(replace(plan, checkpointing=True)).phases["last layer"]["the layer's own"]
    assert again > kept() / 28
    assert kept(micro=2) == kept() / 2


def test_a_trained_vision_tower_keeps_more() -> None:
    pair = ("bundled:tiny-digits/student", "bundled:tiny-digits/teacher")
    data = {"data": "bundled:tiny-digits/train.parquet"}
    kept = []
    for words in ([], ["train.freeze=[vision]"]):
        plan = look(*pair, *words, **data)[0].plan
        assert plan is not None and plan.lengths.image_tokens == 16
        kept.append(estimate(plan).phases["loss"]["activations"])
    assert kept[0] > kept[1]


def peak_of(found: str) -> float:
    return float(found.rpartition("(")[2].split()[0])


def test_remedies_that_make_it_fit_stand_alone(plan: Plan) -> None:
    short = replace(plan, lengths=Lengths(1024, 1024, 1024), rollouts=0)
    available = int(0.9 * estimate(short).peak)
    found = remedies(short, available)
    assert len(found) == 2 and all(peak_of(one) * GIB <= 1.01 * available for one in found)


def test_remedies_are_put_together_where_none_suffices(plan: Plan) -> None:
    short = replace(plan, lengths=Lengths(1024, 1024, 1024), rollouts=0)
    [found] = remedies(short, 20 * GIB)
    assert " and " in found and "a mask of 10%" in found
    assert peak_of(found) < 0.5 * estimate(short).peak / GIB


@pytest.mark.parametrize(
    "kind, remedy", [("reverse-kl", "rollout.batch_size=4"), ("grpo", "rollout.vllm=server")]
)
def test_a_cache_that_is_too_large_is_made_in_parts_or_left_to_a_server(
    kind: Any, remedy: str, plan: Plan
) -> None:
    plan = replace(plan, kind=kind)
    assert estimate(replace(plan, micro=1, accumulation=128)).largest == "sampling"
    [found] = remedies(plan, 60 * GIB)
    assert remedy in found and "gradient_checkpointing" in found


def test_nothing_is_advised_where_nothing_helps(small: ModelShape) -> None:
    least = Plan(
        student=small, dtype="bfloat16", teachers={}, kind="grpo", lengths=Lengths(8, 8, 8), micro=1,
        accumulation=1, rollouts=1, optimizer=Optimizer(name="sgd"), checkpointing=True,
        masked={"model.norm.weight": 1},
    )  # fmt: skip
    assert remedies(least, GIB) == []


def test_the_largest_micro_batch_that_fits_is_advised(plan: Plan) -> None:
    wide = replace(plan, lengths=Lengths(512, 512, 512), micro=64, accumulation=2, rollouts=0)
    eight = replace(wide, micro=8, accumulation=16)
    found = remedies(wide, estimate(eight).peak + 2**20, count=5)
    assert any(one.startswith("train.micro_batch_size=8 ") for one in found), found


def verdict(tmp_path: Path, memory: str) -> Any:
    for name, sizes in (("student", QWEN3_1B7), ("teacher", QWEN3_4B)):
        write_model(tmp_path / name, Qwen3Config(**sizes))
    words = ("rollout.max_new_tokens=256", "train.batch_size=8", "device=cuda")
    subject, findings = look(
        tmp_path / "student", tmp_path / "teacher", *words, "teacher.dtype=bfloat16", memory=memory
    )
    assert not [finding for finding in findings if finding.level == "error"], findings
    return check_memory(subject)


def test_the_verdict_compares_with_the_device(tmp_path: Path) -> None:
    fits = one(verdict(tmp_path, "200GiB"), "ok", "it fits: a peak of ", "cuda with 200 GiB")
    peak = float(fits.sentence.partition("a peak of ")[2].split()[0])
    tight = one(verdict(tmp_path, f"{peak / 0.95:.2f}GiB"), "warning", "it is tight", "; try ")
    assert "train." in tight.sentence
    one(verdict(tmp_path, f"{peak / 2:.2f}GiB"), "error", "it does not fit", "; try ")


def test_a_model_that_is_not_known_leaves_memory_unknown() -> None:
    subject, _ = look(STUDENT, "some/model")
    assert subject.plan is None
    one(check_memory(subject), "unknown", "not checked")


def test_an_empty_phase_is_left_out() -> None:
    found = Estimate({"weights": 5}, {"loss": {"a": 2}, "update": {"b": 3}})
    assert (found.largest, found.peak) == ("update", 8)
