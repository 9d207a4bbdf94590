"""`train` with train.peft, and `evaluate` of what it leaves, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import SHORT, Command, loaded

LORA = "train.peft={type: lora, k: 30000}"


def test_a_lora_run_is_trained_and_evaluated(sparseopd: Command, tmp_path: Path) -> None:
    run = tmp_path / "lora"
    ran = sparseopd(
        "train", "tiny-arithmetic-sibling", LORA, "optimizer.lr=3e-3", *SHORT, "-o", run
    )
    assert ran.code == 0, ran.err
    assert "31,104 trainable weights, where train.peft.k asks for 30,000" in " ".join(
        ran.err.split()
    )
    assert loaded(run / "run.json")["kind"] == "lora"
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_size < 150_000
    ran = sparseopd("evaluate", run, *SHORT, "-o", tmp_path / "scores")
    assert ran.code == 0, ran.err
    arms = {arm["name"]: arm for arm in loaded(tmp_path / "scores" / "scores.json")["arms"]}
    assert list(arms) == ["source", "LoRA rank 6", "teacher"]
    assert arms["LoRA rank 6"]["kind"] == "lora"
    assert arms["LoRA rank 6"]["kl"] != arms["source"]["kl"]


@pytest.mark.parametrize(
    "words, part",
    [
        (["train", "tiny-arithmetic", "train.peft={type: lora, k: 100}"], "rank 1 has 5,184"),
        (["train", "tiny-arithmetic", LORA, "--snapshots", "1"], "train.snapshots"),
        (["discover", "tiny-arithmetic", LORA], "set train.peft to null"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    words: list[str], part: str, sparseopd: Command, tmp_path: Path
) -> None:
    ran = sparseopd(*words, "-o", tmp_path / "x")
    assert ran.code == 2 and part in ran.err, ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    assert not (tmp_path / "x").exists()
