"""From two local folders and a JSONL to a mask, a sparse student and a report."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from sparseopd import Mask
from sparseopd.artifacts import RunDir, Scores
from sparseopd.masks import select
from sparseopd.pairs import tiny
from tests.integration.conftest import SHORT, Command, files_of, loaded

README = Path(__file__).parent.parent.parent / "README.md"


def readme_commands() -> list[str]:
    """The three commands README promises a new user, as they stand there."""
    section = README.read_text().split("## Your own models, in three commands")[1]
    return re.findall(r"^sparseopd (.+)$", section.split("```")[1], re.MULTILINE)


def test_the_three_commands_of_the_readme(models: Path) -> None:
    """In processes of their own, with nothing changed but the length of the runs."""
    commands = readme_commands()
    assert len(commands) == 3
    names = {"STUDENT": "student", "TEACHER": "teacher"}
    settings = {
        "discover": "discover.steps=2 data.holdout=8 rollout.max_new_tokens=6",
        "train": "train.steps=2",
    }
    for command in commands:
        words = [names.get(word, word) for word in command.split()]
        more = [*settings.get(words[0], "").split(), *(SHORT if words[0] == "discover" else [])]
        words = [word for word in words if word not in ("--steps", "50")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(
            [sys.executable, "-m", "sparseopd", *words, *more],
            cwd=models,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
    assert Mask.load(models / "found" / "mask.safetensors").density() == pytest.approx(
        0.1, abs=1e-4
    )
    AutoModelForCausalLM.from_pretrained(models / "sparse" / "checkpoint")
    AutoTokenizer.from_pretrained(models / "sparse" / "checkpoint")
    assert "<html" in (models / "scored" / "report.html").read_text()
    scores = Scores.load(models / "scored" / "scores.json")
    assert [arm.kind for arm in scores.arms] == ["source", "masked", "teacher"]
    assert all(arm.accuracy is not None for arm in scores.arms)


@pytest.mark.parametrize("pair", ["tiny-arithmetic", "tiny-digits"])
def test_every_stage_on_a_bundled_pair(pair: str, tmp_path: Path, sparseopd: Command) -> None:
    found, sparse, full, scored = (
        tmp_path / name for name in ("found", "sparse", "full", "scored")
    )
    watched = ("--steps", 2, "discover.check_every=1")
    assert sparseopd("discover", pair, *SHORT, "-o", found, *watched).code == 0
    assert set(files_of(found)) == {
        "recipe.yaml",
        "run.json",
        "completions.jsonl",
        "metrics.jsonl",
        "mask.safetensors",
        "delta.json",
        "stability.jsonl",
    }
    mask = Mask.load(found / "mask.safetensors")
    assert mask.count() == round(0.1 * mask.numel()) and mask.provenance.steps == 2
    assert loaded(found / "delta.json")["k"] == mask.count()

    ran = sparseopd("train", found, "--mask", found / "mask.safetensors", "-o", sparse)
    assert ran.code == 0 and "every other coordinate has the source's bits (checked)" in ran.err
    changed = select(
        f"bundled:{pair}/student", sparse / "checkpoint", selector="threshold", threshold=0.0
    )
    assert 0 < changed.count() <= mask.count() and changed.coverage(mask) == 1.0
    kind = AutoModelForCausalLM if pair == "tiny-arithmetic" else AutoModelForImageTextToText
    kind.from_pretrained(sparse / "checkpoint")

    assert sparseopd("train", found, "-o", full, "--name", "everything").code == 0
    ran = sparseopd("evaluate", sparse, full, "-o", scored, "--json")
    assert ran.code == 0 and str(scored / "report.html") in ran.err.replace("\n", "")
    arms = {arm.name: arm for arm in Scores.load(scored / "scores.json").arms}
    assert list(arms) == ["source", "topk 10 %", "everything", "teacher"]
    assert arms["everything"].agreement is None  # it is the reference
    agreement = arms["topk 10 %"].agreement or {}
    assert 0 < agreement["1e-05"] < agreement["1e-04"] < 1
    assert arms["topk 10 %"].density == pytest.approx(0.1, abs=1e-3)
    assert len(arms["topk 10 %"].curve) == 4 and arms["topk 10 %"].layout
    assert arms["topk 10 %"].stability == mask.provenance.stability != []
    assert "How the mask settled" in (scored / "report.html").read_text()


def test_the_same_seed_gives_the_same_files(tmp_path: Path, sparseopd: Command) -> None:
    mask = tmp_path / "mask.safetensors"
    select("bundled:tiny-arithmetic/student", selector="random", density=0.05).save(mask)
    for name in ("one", "two"):
        assert (
            sparseopd(
                "train", "tiny-arithmetic", *SHORT, "--mask", mask, "-o", tmp_path / name
            ).code
            == 0
        )
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one.keys() == two.keys()
    # run.json and metrics.jsonl hold times, which differ.
    differing = {name for name in one if one[name] != two[name]}
    assert differing <= {"run.json", "metrics.jsonl"}
    losses = [
        [row["loss"] for row in RunDir(tmp_path / name).read_metrics()] for name in ("one", "two")
    ]
    assert losses[0] == losses[1]


def test_bf16_weights_train_from_fp32_masters(tmp_path: Path, sparseopd: Command) -> None:
    mask = tmp_path / "mask.safetensors"
    select("bundled:tiny-arithmetic/student", selector="random", density=0.05).save(mask)
    ran = sparseopd(
        "train",
        "tiny-arithmetic",
        *SHORT,
        "student.dtype=bfloat16",
        "train.steps=2",
        "--mask",
        mask,
        "-o",
        tmp_path / "run",
    )
    assert ran.code == 0 and "(checked)" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["--selector", "threshold", "discover.density=null"],
        ["--selector", "changed", "discover.density=null", "discover.eta=1e-3"],
        [
            "--selector",
            "topk-relative",
            "discover.relative_to=rms",
            "discover.include=[ffn, attention]",
        ],
        ["--selector", "saliency"],
        ["--selector", "saliency", "discover.saliency=momentum"],
        ["--selector", "random"],
        ["--selector", "off-principal-or-low", "discover.rank=0.2"],
    ],
    ids=lambda words: " ".join(words[1:]),
)
def test_discovery_with_every_kind_of_selector(
    words: list[str], tmp_path: Path, sparseopd: Command
) -> None:
    run = tmp_path / "run"
    ran = sparseopd("discover", "tiny-arithmetic", *SHORT, *words, "--steps", 2, "-o", run)
    assert ran.code == 0, ran.err
    mask = Mask.load(run / "mask.safetensors")
    assert mask.provenance.selector == words[1] and 0 < mask.density() < 1
    mask.verify("bundled:tiny-arithmetic/student")
    assert (run / "saliency").exists() == (words[1] == "saliency")
    if words[1] == "saliency":  # the same scores give the same mask again, at any density
        again = select(
            "bundled:tiny-arithmetic/student", run / "saliency", selector="saliency", density=0.1
        )
        assert again == mask and len(load_file(run / "saliency" / "model.safetensors")) == len(
            mask.names
        )


def test_discovery_stops_when_the_mask_has_settled(tmp_path: Path, sparseopd: Command) -> None:
    run = tmp_path / "run"
    settings = ("discover.check_every=2", "--snapshots", "2,4,20", "--steps", 20)
    ran = sparseopd(
        "discover", "tiny-arithmetic", *SHORT, *settings, "--until-stable", 0.2, "-o", run
    )
    assert ran.code == 0 and "no snapshot was kept of steps [20]" in ran.err
    rows = [json.loads(line) for line in (run / "stability.jsonl").read_text().splitlines()]
    facts, mask = RunDir(run).read_facts(), Mask.load(run / "mask.safetensors")
    assert facts.steps == mask.provenance.steps == rows[-1]["step"] < 20
    assert rows == mask.provenance.stability
    assert {row["density"] for row in rows} == {0.01, 0.05, 0.1, 0.2}
    own = [row["jaccard"] for row in rows if row["density"] == 0.1]
    assert own[-1] >= 0.2 and all(0 <= one < 0.2 for one in own[:-1])

    unsettled = tmp_path / "unsettled"
    words = ("--steps", 4, "--until-stable", 1.0, "discover.check_every=2", "-o", unsettled)
    ran = sparseopd("discover", "tiny-arithmetic", *SHORT, *words)
    assert ran.code == 0 and "the mask had not settled after all steps" in ran.err

    kept = {path.name: Mask.load(path) for path in (run / "masks").iterdir()}
    assert set(kept) == {"step-2.safetensors", "step-4.safetensors"}
    assert [mask.provenance.steps for _, mask in sorted(kept.items())] == [2, 4]
    jaccard = kept["step-2.safetensors"].jaccard(kept["step-4.safetensors"])
    assert jaccard == next(
        row["jaccard"] for row in rows if (row["step"], row["density"]) == (4, 0.1)
    )
    shorter = tmp_path / "shorter"
    words = ("discover", "tiny-arithmetic", *SHORT, "--steps", 4, "-o", shorter)
    assert sparseopd(*words).code == 0  # what is watched is not changed by being watched
    assert Mask.load(shorter / "mask.safetensors") == kept["step-4.safetensors"]
    assert "Jaccard of steps" in sparseopd("mask", "show", run / "mask.safetensors").err


def test_settling_is_watched_in_scope_and_not_seen_where_nothing_moves(
    tmp_path: Path, sparseopd: Command
) -> None:
    watched = ("--steps", 6, "--until-stable", 0.2, "discover.check_every=1")
    scoped = ("discover.density=null", "discover.k=1000", "discover.include=[ffn]")
    ran = sparseopd("discover", "tiny-arithmetic", *SHORT, *watched, *scoped, "-o", tmp_path / "a")
    assert ran.code == 0 and RunDir(tmp_path / "a").read_facts().steps < 6

    still = ("optimizer.lr=1e-12", "--density", 0.5)  # most weights are too large to change by that
    ran = sparseopd("discover", "tiny-arithmetic", *SHORT, *watched, *still, "-o", tmp_path / "b")
    assert ran.code == 0 and "no two checks could be compared" in ran.err
    assert "did not move" in sparseopd("mask", "show", tmp_path / "b" / "mask.safetensors").err


def test_a_snapshot_before_anything_has_moved_is_left_out(
    tmp_path: Path, sparseopd: Command
) -> None:
    words = ("--selector", "threshold", "discover.density=null", "discover.threshold=4e-4")
    ran = sparseopd(
        "discover",
        "tiny-arithmetic",
        *SHORT,
        *words,
        "--steps",
        6,
        "--snapshots",
        "1,6",
        "-o",
        tmp_path / "r",
    )
    assert ran.code == 0 and "no snapshot of step 1: the selector threshold chose none" in ran.err
    assert [path.name for path in (tmp_path / "r" / "masks").iterdir()] == ["step-6.safetensors"]


def test_the_demo_with_short_runs(tmp_path: Path, sparseopd: Command) -> None:
    ran = sparseopd("demo", "--pair", "tiny-arithmetic", "--steps", 4, "-o", tmp_path / "demo")
    assert ran.code == 0, ran.err
    assert ran.err.rstrip().endswith("report.html")
    assert ran.err.count("whole demo: ") == 1  # at the end, and not when its estimate is used up
    scores = Scores.load(tmp_path / "demo" / "tiny-arithmetic" / "scores.json")
    assert [arm.name for arm in scores.arms] == [
        "source",
        "full OPD",
        "discovered mask 10 %",
        "random mask 10 %",
        "teacher",
    ]
    found, random = (
        Mask.load(tmp_path / "demo" / "tiny-arithmetic" / name / "mask.safetensors")
        for name in ("discovered", "random")
    )
    assert [found.count(name) for name in found.names] == [
        random.count(name) for name in random.names
    ]


def test_a_stopped_run_is_resumed_with_its_own_settings(
    tmp_path: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = tmp_path / "mask.safetensors"
    student = tiny.folder("tiny-arithmetic") / "student"
    made = sparseopd(
        "mask", "select", student, "--selector", "random", "--density", "0.1", "-o", mask
    )
    assert made.code == 0, made.err
    settings = [
        *SHORT, "train.save_every=2", "optimizer.name=adamw-8bit", "optimizer.sampled_gradients=true",
        "optimizer.groups=[{match: [norm], lr: 1e-5}, {match: [ffn], weight_decay: 0.1}]",
    ]  # fmt: skip
    run = tmp_path / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # Interrupted once all is trained, and nothing of it written.
    module = importlib.import_module("sparseopd.distill.train")
    with monkeypatch.context() as late:
        late.setattr(module, "save_checkpoint", stop)
        words = ("train", "tiny-arithmetic", *settings, "--mask", mask, "--name", "mine", "-o", run)
        assert sparseopd(*words).code == 130
    resumed = sparseopd("train", run, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert "resumed after step 4" in resumed.err
    assert json.loads(resumed.out)["kind"] == "masked"
    assert RunDir(run).read_facts().name == "mine"
    assert sparseopd("train", run, "--resume").code == 2
