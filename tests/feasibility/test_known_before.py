"""What is known of models, data, device and disk before anything is loaded, and what is said if not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from sparseopd.errors import MaskFileError, PairError, RequestError
from sparseopd.feasibility import Finding, described, devices, make_request
from sparseopd.feasibility.described import SMALL_FILES, Described, describe
from sparseopd.feasibility.devices import find_device, main_memory
from sparseopd.feasibility.disk import check_disk, find_disk, mask_bytes
from sparseopd.feasibility.lengths import SAMPLE
from sparseopd.feasibility.sizes import parameters, parse_size, readable
from sparseopd.masks import Mask
from sparseopd.pairs import resolve_path
from sparseopd.recipe import Model
from tests.feasibility.folders import DATA, STUDENT, look, one, write_model

TEACHER = "bundled:tiny-arithmetic/teacher"
N = 314_736
"""Parameters of the bundled student."""


@pytest.mark.parametrize(
    "text, size",
    [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("500 MiB", 500 * 2**20), ("1.5tib", 3 * 2**39)],
)
def test_sizes_are_read_as_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "GiB", "-1GiB", "24 gigs", "1e3GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="such as 24GiB"):
        parse_size(text)


def test_sizes_and_counts_are_written_short() -> None:
    assert [readable(size) for size in (12, 2**11, 3 * 2**20, 1003 * 2**20, 2**30)] == [
        "12 B", "2 KiB", "3 MiB", "1,003 MiB", "1 GiB",
    ]  # fmt: skip
    assert [parameters(count) for count in (12, 314_736, 1_720_574_976)] == [
        "12",
        "315 k",
        "1.72 B",
    ]


def test_a_model_out_of_reach_is_unknown() -> None:
    found = describe("teacher", Model(path="Qwen/Qwen3-4B"))
    assert found == Finding(
        "unknown",
        "teacher",
        "not checked: Qwen/Qwen3-4B is not cached here, and the hub is out of reach",
    )


def answer(status: int) -> Any:
    """A hub's answer, as far as its errors look at it."""
    request = SimpleNamespace(method="GET", url="https://hub")
    return SimpleNamespace(status_code=status, headers={}, request=request)


@pytest.mark.parametrize(
    "error, level, part",
    [
        (
            RepositoryNotFoundError("404 no", response=answer(404)),
            "error",
            "the hub has no model a/b",
        ),
        (GatedRepoError("401", response=answer(401)), "error", "log in with hf auth login"),
        (HfHubHTTPError("503", response=answer(503)), "unknown", "out of reach"),
        (LocalEntryNotFoundError("offline"), "unknown", "not cached here"),
        (TimeoutError("slow"), "unknown", "out of reach"),
    ],
)
def test_what_the_hub_answers_decides_the_level(
    error: Exception, level: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(described, "snapshot_download", refuse)
    found = describe("student", Model(path="a/b"))
    assert isinstance(found, Finding) and found.level == level and part in found.sentence


def test_only_small_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    write_model(tmp_path)

    def fetch(path: str, **options: Any) -> str:
        asked.append(options)
        return str(tmp_path)

    monkeypatch.setattr(described, "snapshot_download", fetch)
    found = describe("student", Model(path="a/b", revision="main"))
    assert isinstance(found, Described) and found.settings.path == "a/b"
    assert found.shape is not None and found.ends == {1}
    assert asked[0]["allow_patterns"] == list(SMALL_FILES) and asked[0]["revision"] == "main"
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in SMALL_FILES)


def test_a_snapshot_without_configuration_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(described, "snapshot_download", lambda *given, **options: str(tmp_path))
    found = describe("student", Model(path="a/b"))
    assert isinstance(found, Finding) and found.level == "unknown"


def test_a_folder_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    for path, part in (("./absent", "no model folder ./absent"), (str(tmp_path), "config.json")):
        found = describe("student", Model(path=path))
        assert isinstance(found, Finding) and found.level == "error" and part in found.sentence


def test_prompts_are_measured_on_a_sample() -> None:
    subject, findings = look(STUDENT, TEACHER, data=DATA)
    assert (subject.lengths.prompt, subject.lengths.sampled) == (11, SAMPLE)
    one(findings, "ok", "the longest of 200 prompts has 11 tokens", "up to 512")


def test_a_teacher_that_sees_more_has_longer_prompts() -> None:
    subject, _ = look(STUDENT, STUDENT, "data.privileged=answer", data=DATA)
    assert subject.lengths.teacher_prompt > subject.lengths.prompt == 11


def test_images_are_counted_in_the_prompt() -> None:
    pair = ("bundled:tiny-digits/student", "bundled:tiny-digits/teacher")
    subject, findings = look(*pair, data="bundled:tiny-digits/train.parquet")
    assert subject.lengths.image_tokens == 16
    one(findings, "ok", "16 of them an image's")


def test_data_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "1+1=", "answer": "2"}\n' * 10)
    _, findings = look(STUDENT, TEACHER, data=str(few))
    one(findings, "error", "has 8 training prompts, fewer than the 32", "lower train.batch_size")
    _, findings = look(STUDENT, TEACHER, "data.prompt=question", data=str(few))
    one(findings, "error", "no column 'question'")
    _, findings = look(STUDENT, TEACHER, data="bundled:tiny-digits/train.parquet")
    one(findings, "error", "the student is a language model")


def test_data_elsewhere_gets_an_assumed_length() -> None:
    subject, findings = look(STUDENT, TEACHER, data="org/data")
    assert (subject.lengths.prompt, subject.lengths.sampled) == (1024, 0)
    one(findings, "unknown", "org/data is not on this machine", "1,024 tokens are assumed")


def test_another_device_is_planned_for_by_its_size() -> None:
    device = find_device(None, 24 * 2**30)
    assert (device.kind, device.bytes, device.bfloat16) == ("cuda", 24 * 2**30, True)
    assert find_device("cpu", 2**30).kind == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_an_error_unless_its_size_is_given() -> None:
    with pytest.raises(PairError, match="plan for another machine with --memory"):
        find_device("cuda")
    subject, findings = look(STUDENT, TEACHER, "device=cuda")
    assert subject.plan is None and subject.device is None
    one(findings, "error", "the device 'cuda' cannot be used here")
    _, findings = look(STUDENT, "some/model", "device=cuda")
    one(findings, "warning", "the device 'cuda' cannot be used here")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = main_memory()
    limits = tmp_path / "memory.max", tmp_path / "absent"
    monkeypatch.setattr(devices, "CGROUP_LIMITS", limits)
    limits[0].write_text("max\n")
    assert main_memory() >= whole
    limits[0].write_text("1048576\n")
    assert main_memory() == 1 << 20


def test_a_run_writes_its_checkpoint_and_states_to_resume_from() -> None:
    once = find_disk(look(STUDENT, TEACHER)[0])
    twice = find_disk(look(STUDENT, TEACHER, "train.save_every=10", "train.save_dtype=float32")[0])
    assert once is not None and twice is not None
    assert once.items == {"checkpoint": 2 * N, "states to resume from": 12 * N}
    assert twice.items == {"checkpoint": 4 * N, "states to resume from": 24 * N}


def test_a_masked_run_writes_k_vectors_and_its_mask() -> None:
    subject, _ = look(STUDENT, TEACHER, density=0.1)
    disk = find_disk(subject)
    assert disk is not None and subject.plan is not None
    assert disk.items["states to resume from"] == 4 * N + 12 * subject.plan.k
    assert disk.items["mask"] == -(-N // 8)


@pytest.mark.parametrize("density", [0.001, 0.02, 0.5])
def test_a_mask_file_is_about_as_large_as_foreseen(density: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(400_000, generator=generator) < density
    Mask.from_tensors({"weight": chosen}).save(tmp_path / "mask")
    real = (tmp_path / "mask").stat().st_size
    assert mask_bytes(len(chosen), int(chosen.sum())) == pytest.approx(real, rel=0.1, abs=1024)


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject, _ = look(STUDENT, TEACHER, output=tmp_path / "not" / "yet")
    one(check_disk(subject), "ok", "the run writes up to 4.2 MiB")
    disk = find_disk(subject)
    assert disk is not None
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    one(check_disk(subject), "error", "free some space, or give another folder with -o")
    one(check_disk(look(STUDENT, "some/model")[0]), "unknown", "not checked")


def test_a_mask_of_another_model_and_words_that_match_nothing_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    Mask.from_tensors({"other.weight": torch.ones(2, 2, dtype=torch.bool)}).save(file)
    subject, findings = look(STUDENT, TEACHER, mask=file)
    one(findings, "error", "discover a mask for this model")
    assert subject.plan is None
    for words in (["train.freeze=[bias*]"], ["discover.include=[bias*]"]):
        _, findings = look(STUDENT, TEACHER, *words, density=0.1)
        one(findings, "error", "no tensor matches 'bias*'")


def test_requests_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    recipe = look(STUDENT, TEACHER)[0].recipe
    (tmp_path / "mask").write_text("no mask")
    with pytest.raises(RequestError, match="give one of them"):
        make_request(recipe, mask=tmp_path / "mask", density=0.1)
    with pytest.raises(RequestError, match="up to 1"):
        make_request(recipe, density=1.5)
    with pytest.raises(MaskFileError):
        make_request(recipe, mask=tmp_path / "mask")


def test_contrasts_without_a_teacher_do_not_look_at_it() -> None:
    subject, findings = look(STUDENT, "some/model", "objective.kind=sft", data=DATA)
    assert not subject.teachers and subject.plan is not None and not subject.plan.rollouts
    assert [finding.level for finding in findings] == ["ok"]


def test_a_served_teacher_needs_its_tokenizer_alone() -> None:
    words = ("teacher.server=http://localhost:8000", "objective.kind=sampled-token")
    subject, _ = look(STUDENT, resolve_path(TEACHER), *words)
    assert "teacher" in subject.teachers and subject.plan is not None and not subject.plan.teachers


def test_batches_are_split_as_in_training() -> None:
    words = ("train.batch_size=8", "rollout.samples=4", "rollout.updates=2")
    plan = look(STUDENT, TEACHER, *words, "train.micro_batch_size=4")[0].plan
    assert plan is not None and (plan.micro, plan.accumulation, plan.rollouts) == (4, 8, 64)
    plan = look(STUDENT, TEACHER, *words, "objective.kind=offline-kd")[0].plan
    assert plan is not None and (plan.micro, plan.accumulation, plan.rollouts) == (8, 1, 0)


def test_a_teacher_on_another_device_is_not_counted() -> None:
    words = ("teacher.device=cpu", "device=cuda")
    plan = look(STUDENT, TEACHER, *words, memory="1GiB")[0].plan
    assert plan is not None and not plan.teachers_here
    plan = look(STUDENT, TEACHER, "teacher.device=cuda:0", "device=cuda", memory="1GiB")[0].plan
    assert plan is not None and plan.teachers_here
