"""The recipes of the paper's ten transitions, and the launch configurations beside them."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from PIL import Image

from sparseopd import cli, recipe
from sparseopd.tasks import load_prompts

RECIPES = Path(__file__).parent.parent / "recipes"
PAPER = sorted((RECIPES / "paper").glob("*.yaml"))
ROWS = {
    "offline-kd-qwen-math": ("offline KD", "sft"),
    "rlvr-deepscaler": ("RLVR → DeepScaleR", "grpo"),
    "opd-deepscaler": ("OPD ← DeepScaleR", "sampled-token"),
    "rlvr-justrl": ("RLVR → JustRL", "grpo"),
    "opd-justrl": ("OPD ← JustRL", "sampled-token"),
    "opd-minicpm": ("MiniCPM OPD", "sampled-token"),
    "vlm-grpo": ("VLM GRPO", "grpo"),
    "vlm-opd": ("VLM OPD", "teacher-top-k"),
    "opd-qwen3-1.7b": ("Qwen3-1.7B OPD", "sampled-token"),
    "opsd-qwen3-4b": ("Qwen3-4B OPSD", "jsd"),
}
"""Each row of the table (PAPER.md §4) and its objective."""
HUB = {
    "open-r1/DAPO-Math-17k-Processed": {
        "prompt": "1+1?",
        "solution": "2",
        "source_prompt": [{"role": "user", "content": "Solve: 1+1?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
    },
    "open-r1/Mixture-of-Thoughts": {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>2</think> 2"},
        ],
        "num_tokens": 9,
    },
    "siyanzhao/Openthoughts_math_30k_opsd": {
        "problem": "1+1?",
        "solution": r"\boxed{2}",
        "Answer": "2",
    },
    "hiyouga/geometry3k": {
        "images": [Image.new("RGB", (4, 4))],
        "problem": "<image>Find x.",
        "answer": "2",
    },
}
"""A row of each data set, in the columns that public loaders read."""
LANGUAGE = [name for name in ROWS if name.startswith(("opd", "opsd", "rlvr"))]

each = pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)


def loaded(name: str) -> recipe.Recipe:
    return recipe.load(recipe.find(name))


def test_there_is_a_recipe_for_each_row_of_the_table() -> None:
    assert {path.stem for path in PAPER} == set(ROWS)


@each
def test_a_recipe_says_its_row_its_commands_its_hardware_and_its_assumptions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    row, kind = ROWS[path.stem]
    assert text.startswith(f'# Row "{row}" of the paper')
    assert f"sparseopd train {path.stem}" in text and "# Hardware:" in text
    assert text.count("# assumption:") >= 5
    assert recipe.load(path).objective.kind == kind


@each
def test_weights_are_trained_in_float32_and_decided_by_one_seed(path: Path) -> None:
    found = recipe.load(path)
    assert found.student.dtype == "float32" and found.train.bf16 is None
    assert all(teacher.dtype == "bfloat16" for teacher in found.all_teachers().values())
    assert not any(
        model.trust_remote_code for model in [found.student, *found.all_teachers().values()]
    )
    assert found.seed == 0 and found.train.gradient_checkpointing


@pytest.mark.parametrize("name", [*LANGUAGE, "vlm-opd", "vlm-grpo"])
def test_the_papers_batches_and_rates(name: str) -> None:
    found = loaded(name)
    assert (found.train.batch_size, found.rollout.updates) == (32, 4)
    assert found.optimizer.name == "adamw" and found.optimizer.lr == 1e-6
    assert found.optimizer.masked_lr is None
    assert found.rollout.max_new_tokens == (2048 if name.startswith("vlm") else 7168)


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_run_is_130_to_150_batches_of_rollouts(name: str) -> None:
    found = loaded(name)
    assert 130 <= found.train.steps / found.rollout.updates <= 150
    assert found.rollout.samples == (8 if found.objective.kind == "grpo" else 4)
    if found.data.train.startswith("open-r1/DAPO-Math-17k"):  # one epoch of the rows not held out
        assert found.train.steps == (17_398 - found.data.holdout) // 128 * 4


def test_the_vision_runs_are_ten_epochs_of_geometry3k() -> None:
    for name in ("vlm-opd", "vlm-grpo"):
        assert loaded(name).train.steps == 10 * (2101 // 128) * 4
    found = loaded("vlm-opd")
    assert (found.objective.k, found.rollout.samples) == (32, 1)


def test_privileged_context_belongs_to_self_distillation_alone() -> None:
    found = {name: loaded(name) for name in ROWS}
    assert [name for name, one in found.items() if one.data.privileged] == ["opsd-qwen3-4b"]
    opsd = found["opsd-qwen3-4b"]
    assert opsd.teacher is not None and opsd.teacher.path == opsd.student.path


@each
def test_rows_of_the_hub_become_prompts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None = None, *, split: str) -> Dataset:
        assert split in ("train", "test") and (config in ("all", "math")) == name.startswith(
            "open-r1"
        )
        return Dataset.from_list([HUB[name]] * 4)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = load_prompts(recipe.load(path).data, chat=True)
    row = found.train[0]
    assert row["prompt"][-1]["role"] == "user" and "<image>" not in row["prompt"][-1]["content"]
    assert found.has_images == path.stem.startswith("vlm")
    if found.grader is not None:
        assert found.grader(r"so \boxed{2}", found.test[0]["answer"])
    if ROWS[path.stem][1] in ("sft", "grpo"):
        assert row["answer"]
    if path.stem.startswith("opsd"):
        assert r"\boxed{2}" in row["teacher_prompt"][-1]["content"]


@each
def test_check_passes_offline(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    # vLLM, which a machine without a GPU seldom has, is rightly missed by the check.
    without = ["rollout.vllm=null"] if find_spec("vllm") is None else []
    monkeypatch.setattr(sys, "argv", ["sparseopd", "check", path.stem, *without, "--json"])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert code == 0, err
    assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize(
    ("name", "distributed", "setting"),
    [
        ("ddp", "MULTI_GPU", {}),
        ("fsdp2", "FSDP", {"fsdp_version": 2}),
        ("deepspeed-zero2", "DEEPSPEED", {"zero_stage": 2}),
        ("deepspeed-zero3", "DEEPSPEED", {"zero_stage": 3}),
    ],
)
def test_accelerate_reads_the_launch_configurations(
    name: str, distributed: str, setting: dict[str, int]
) -> None:
    path = RECIPES / "accelerate" / f"{name}.yaml"
    read = load_config_from_file(str(path))
    assert read.distributed_type.value == distributed
    assert setting.items() <= {**read.fsdp_config, **read.deepspeed_config}.items()
    assert f"--config_file recipes/accelerate/{name}.yaml" in path.read_text()


def test_every_file_has_a_row_in_the_readme() -> None:
    readme = (RECIPES / "README.md").read_text(encoding="utf-8")
    for path in RECIPES.glob("*/*.yaml"):
        named = path.name if path.parent.name == "accelerate" else path.stem
        assert f"| `{named}` |" in readme, path
