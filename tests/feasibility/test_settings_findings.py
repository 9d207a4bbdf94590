"""Each setting that cannot work, or is known to disappoint, is told with what to do."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparseopd.feasibility import packages
from sparseopd.feasibility.packages import check_packages
from sparseopd.feasibility.sequences import (
    check_padding,
    check_positions,
    check_sampling,
    check_thinking,
)
from sparseopd.feasibility.weights import (
    check_frozen_mask,
    check_frozen_scope,
    check_masters,
    check_same_model,
    check_stored_updates,
    check_vision,
)
from sparseopd.masks import Mask
from sparseopd.pairs import open_tensors, resolve_path
from tests.feasibility.folders import DATA, STUDENT, look, one, write_model

TEACHER = "bundled:tiny-arithmetic/teacher"
DIGITS = ("bundled:tiny-digits/student", "bundled:tiny-digits/teacher")


@pytest.fixture
def thinker(tmp_path: Path) -> Path:
    folder = tmp_path / "thinker"
    tokenizer = write_model(folder)
    tokenizer.chat_template = "{{ messages[-1].content }}{% if enable_thinking %}<think>{% endif %}"  # pyright: ignore
    tokenizer.save_pretrained(folder)
    return folder


def test_a_template_that_may_think_wants_to_be_told(thinker: Path) -> None:
    found = check_thinking(look(thinker, TEACHER)[0])
    assert [finding.level for finding in found] == ["warning", "warning"]
    assert "data.chat_template.enable_thinking to true or false" in found[0].sentence
    assert "the template of student thinks or not" in found[0].sentence
    assert "rollout.max_new_tokens 512 cuts most reasoning" in found[1].sentence


def test_thinking_that_is_decided_needs_room_only_if_it_is_on(thinker: Path) -> None:
    quiet, loud = (f"data.chat_template.enable_thinking={way}" for way in ("false", "true"))
    assert not check_thinking(look(thinker, TEACHER, quiet)[0])
    one(check_thinking(look(thinker, TEACHER, loud)[0]), "warning", "raise it to 2048 or more")
    assert not check_thinking(look(thinker, TEACHER, loud, "rollout.max_new_tokens=4096")[0])
    assert not check_thinking(look(STUDENT, TEACHER)[0])


def test_sequences_beyond_a_models_positions_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, max_position_embeddings=64)
    subject, _ = look(STUDENT, tmp_path, "rollout.max_new_tokens=60", data=DATA)
    one(check_positions(subject), "error", "a response of 60 tokens", "64 positions of teacher")
    assert not check_positions(look(STUDENT, tmp_path, "rollout.max_new_tokens=6", data=DATA)[0])


def test_an_assumed_prompt_refuses_nothing_a_response_alone_does(tmp_path: Path) -> None:
    write_model(tmp_path, max_position_embeddings=900)
    for response, errors in ((512, 0), (900, 1)):
        words = f"rollout.max_new_tokens={response}"
        subject, _ = look(tmp_path, tmp_path, words)
        assert subject.lengths.prompt == 1024
        assert len(check_positions(subject)) == errors * len(subject.known)


@pytest.mark.parametrize("setting", ["rollout.top_p=0.9", "rollout.top_k=20"])
def test_truncated_sampling_biases_importance_ratios(setting: str) -> None:
    kind = ("objective.kind=grpo", "rollout.samples=4")
    found = check_sampling(look(STUDENT, TEACHER, *kind, setting)[0])
    one(found, "warning", "set rollout.top_p=1 and rollout.top_k=0")
    assert not check_sampling(look(STUDENT, TEACHER, *kind)[0])
    assert not check_sampling(look(STUDENT, TEACHER, setting)[0])


def test_padding_with_the_end_token_is_told(tmp_path: Path) -> None:
    tokenizer = write_model(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    one(check_padding(look(tmp_path, TEACHER)[0]), "warning", "pads with its end token '<|end|>'")
    assert not check_padding(look(STUDENT, TEACHER)[0])


def test_a_full_run_of_16_bit_weights_is_refused_and_a_masked_one_is_not() -> None:
    half = "student.dtype=bfloat16"
    one(check_masters(look(STUDENT, TEACHER, half)[0]), "error", "float32", "--density")
    assert not check_masters(look(STUDENT, TEACHER, half, density=0.1)[0])
    assert not check_masters(look(STUDENT, TEACHER)[0])


def test_updates_that_a_stored_checkpoint_rounds_away_are_told() -> None:
    small = ("optimizer.lr=1e-6", "optimizer.masked_lr=1e-3")
    note = one(check_stored_updates(look(STUDENT, TEACHER, *small)[0]), "note", "rate of 1e-06")
    assert "bfloat16" in note.sentence and "train.save_dtype=float32 keeps them" in note.sentence
    assert not check_stored_updates(look(STUDENT, TEACHER, *small, density=0.1)[0])
    assert not check_stored_updates(look(STUDENT, TEACHER, *small, "train.save_dtype=float32")[0])
    assert not check_stored_updates(look(STUDENT, TEACHER, "optimizer.lr=1e-4")[0])


def test_a_checkpoint_stored_in_float32_keeps_every_update(tmp_path: Path) -> None:
    write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    assert not check_stored_updates(look(tmp_path, TEACHER, "optimizer.lr=1e-6")[0])


def test_a_teacher_that_is_the_student_needs_to_see_more() -> None:
    own = resolve_path(STUDENT)
    one(check_same_model(look(STUDENT, own)[0]), "warning", "nothing to learn", "data.privileged")
    assert not check_same_model(look(STUDENT, own, "data.privileged=answer")[0])
    assert not check_same_model(look(STUDENT, TEACHER)[0])


def test_a_vision_tower_is_trained_frozen_or_left_out() -> None:
    freeze = "train.freeze=[vision]"
    note = one(check_vision(look(*DIGITS)[0]), "note", "train.freeze=[vision]")
    assert "84,672 of its 84,672 parameters" in note.sentence
    one(check_vision(look(*DIGITS, freeze)[0]), "ok", "stays as it is")
    masked, _ = look(*DIGITS, "discover.exclude=[vision]", density=0.1)
    one(check_vision(masked), "ok", "no coordinate of the vision tower is trained")
    assert not check_vision(look(STUDENT, TEACHER)[0])


@pytest.mark.parametrize("word", ["vision", "*vision_tower*"])
def test_a_mask_cannot_be_sought_where_nothing_is_trained(word: str) -> None:
    freeze, ask = "train.freeze=[vision]", f"discover.include=['{word}', ffn]"
    found = check_frozen_scope(look(*DIGITS, freeze, ask)[0])
    one(found, "error", f"discover.include asks for {word}, which train.freeze keeps")
    assert not check_frozen_scope(look(*DIGITS, freeze, "discover.include=['*']")[0])
    assert not check_frozen_scope(look(*DIGITS, ask)[0])


def test_a_mask_in_frozen_weights_is_refused(tmp_path: Path) -> None:
    tensors = open_tensors(resolve_path(STUDENT))
    chosen = {name: tensors[name] != 0 for name in tensors.keys()}
    Mask.from_tensors(chosen).save(tmp_path / "mask.safetensors")
    mask = tmp_path / "mask.safetensors"
    subject, findings = look(STUDENT, TEACHER, "train.freeze=[ffn]", mask=mask)
    assert not [finding for finding in findings if finding.level == "error"]
    one(check_frozen_mask(subject), "error", "9 tensors that train.freeze keeps", "mlp")
    assert not check_frozen_mask(look(STUDENT, TEACHER, mask=mask)[0])
    assert not check_frozen_mask(look(STUDENT, TEACHER, "train.freeze=[ffn]", density=0.1)[0])


@pytest.mark.parametrize(
    "setting, package",
    [
        ("teacher.quantization=4bit", "bitsandbytes"),
        ("optimizer.name=adamw-8bit", "bitsandbytes"),
        ("rollout.vllm=colocate", "vllm"),
        ("train.report_to=[wandb]", "wandb"),
        ("train.report_to=[tensorboard]", "tensorboard"),
    ],
)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    setting: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, _ = look(STUDENT, TEACHER, setting)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    one(check_packages(subject), "error", setting.partition("=")[0], f"pip install {package}")
    monkeypatch.setattr(packages, "find_spec", lambda name: find_spec("torch"))
    assert not check_packages(subject)


@pytest.mark.parametrize("teacher, memory", [(TEACHER, "24GiB"), ("some/model", None)])
def test_what_a_run_elsewhere_lacks_here_is_a_warning(
    teacher: str, memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, _ = look(STUDENT, teacher, "rollout.vllm=colocate", memory=memory)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    one(check_packages(subject), "warning", "pip install vllm where it is to run")
