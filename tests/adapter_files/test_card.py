"""The model card: what the hub reads of it, what a person does, and what foreign text cannot do to it."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card import BEGIN, END, write_card
from sparseopd.adapter_files.card_metadata import is_hub_id, task_of
from sparseopd.adapter_files.card_scores import command_of
from sparseopd.adapter_files.card_text import one_line
from sparseopd.adapter_files.extract import Extracted
from sparseopd.adapter_files.format import Header
from sparseopd.adapter_files.writer import stored
from sparseopd.artifacts import Interval, Provenance, RunFacts
from sparseopd.errors import AdapterError
from sparseopd.masks.bitmap import Bitmap
from tests.report.builders import arm, interval, scores

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
RUN = RunFacts(
    kind="masked", name="sparse", student="s", teacher="t", steps=50, lr=1e-4, seed=0, seconds=9.5
)
MADE = Extracted(Path("a"), k=3, numel=16, changed=5, lost=0, rounded=0, bytes=600)
EVALUATED = scores(
    arm("source", "source", 0.5),
    arm("full", "full", 0.9, gain=interval(0.4)),
    arm("sparse", "masked", 0.88, density=0.1, gain=interval(0.38), gain_kept=interval(0.95)),
    arm("teacher", "teacher", 0.97, kl=Interval(math.nan, math.nan, math.nan)),
    temperature=0.7,
    confidence=0.95,
)


def adapter(teacher: str = "org/teacher", **known: Any) -> SparseAdapter:
    """Three new values of a base of two tensors."""
    chosen = torch.zeros(3, 4, dtype=torch.bool)
    chosen[0, 1] = chosen[2, 2] = chosen[2, 3] = True
    entry, tensors = stored(
        "a.weight",
        Bitmap.pack("a.weight", chosen),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16),
        base_hash="bfloat16:0",
        result_hash="bfloat16:1",
    )
    other, _ = stored("b.weight", Bitmap.empty((4,)), None, base_hash="bfloat16:2")
    provenance = replace(Provenance(base="org/base", revision="abc", selector="topk"), **known)
    header = Header([entry, other], provenance, teacher)
    return SparseAdapter.from_tensors({**tensors, "sparseopd": header.to_tensor()}, "made")


def test_a_card_says_what_the_adapter_is(tmp_path: Path) -> None:
    made = adapter(settings={"density": 0.2}, version="0.1.0", tuned="runs/one")
    path = write_card(
        tmp_path, made, scores=EVALUATED, arm="sparse", run=RUN, extracted=MADE, license="MIT"
    )
    card = ModelCard.load(path)
    assert card.data.to_dict() == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "mit",
        "tags": ["sparseopd", "sparse", "on-policy-distillation"],
    }
    text = card.text
    for part in (
        "3 new values, 18.8 % of the weights of `org/base` at revision `abc`",
        "learned from the teacher `org/teacher`",
        "Licence: `mit`",
        "| sparse (the checkpoint this was taken from) | 10 | 88.0 [86.0, 90.0] | +38.0 [+36.0, +40.0]"
        " | 95 [93, 97] | – |",
        "| teacher | – | 97.0 [95.0, 99.0] | – | – | – |",
        "means with 95 % bootstrap intervals over 256 held-out prompts, 4 samples each, grader exact, "
        "temperature 0.7, seed 1234",
        "evaluate.prompts=256 evaluate.samples=4 evaluate.seed=1234 rollout.temperature=0.7",
        "import sparseopd.adapters",
        "PeftModel.from_pretrained(base_model",
        "sparseopd.apply(base_model",
        "sparseopd adapter apply org/base THIS_REPOSITORY -o merged",
        "The run `sparse` (masked) trained `s` for 50 steps at a learning rate of 0.0001, seed 0.",
        "Selector of the coordinates: `topk` (`density 0.2`).",
        "it makes the checkpoint it was taken from, bit for bit",
        f"have the digest `{made.result_state()}`",
    ):
        assert part in text, part
    assert "another model" not in text


def test_without_scores_it_says_so(tmp_path: Path) -> None:
    text = write_card(tmp_path, adapter()).read_text()
    assert "This adapter was not evaluated" in text and "| Model |" not in text
    assert "bit for bit" not in text  # nobody compared it with anything


def test_scores_of_a_checkpoint_it_does_not_make_are_not_called_its_own(tmp_path: Path) -> None:
    lossy = replace(MADE, lost=2, rounded=1)
    text = write_card(tmp_path, adapter(), scores=EVALUATED, extracted=lossy).read_text()
    assert "The adapter makes another model (see below), which was not evaluated by itself." in text
    assert (
        "It does not make the checkpoint bit for bit: 2 of 5 changed weights are left out and 1 weights"
        " are rounded" in text
    )


@pytest.mark.parametrize(
    "teacher, run, tagged",
    [("t", None, True), ("t", RUN, True), ("t", replace(RUN, kind="contrast"), False), ("", RUN, False)],
)  # fmt: skip
def test_only_what_was_distilled_on_policy_is_called_so(
    teacher: str, run: RunFacts | None, tagged: bool, tmp_path: Path
) -> None:
    card = ModelCard.load(write_card(tmp_path, adapter(teacher), run=run))
    assert ("on-policy-distillation" in card.data.tags) is tagged


@pytest.mark.parametrize(
    "given, name, more",
    [
        (None, "unknown", None),
        ("apache-2.0", "apache-2.0", None),
        ("CC-BY-4.0", "cc-by-4.0", None),
        ("My own\nterms", "other", "My own terms"),
    ],
)
def test_licences(given: str | None, name: str, more: str | None, tmp_path: Path) -> None:
    path = write_card(tmp_path, adapter(), license=given)
    data = ModelCard.load(path).data
    assert (data.license, data.license_name) == (name, more)
    assert ("Replace `license: unknown`" in path.read_text()) is (given is None)


def test_a_base_that_the_hub_does_not_know_is_left_out_of_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "student").mkdir(parents=True)
    for base in ("mine/student", "/data/student", "bundled:tiny/student", "../up", ""):
        assert not is_hub_id(base)
        data = ModelCard.load(write_card(tmp_path, adapter(base=base, revision=None))).data
        assert "base_model" not in data.to_dict() and "base_model_relation" not in data.to_dict()
    assert is_hub_id("mine/other") and is_hub_id("gpt2")


def test_what_a_user_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "---\nlicense: mit\nlanguage: [en]\nbase_model: org/mine\ntags: [a, sparse]\n---\n# Mine\n\nMy words.\n"
    )
    write_card(tmp_path, adapter(base="/data/student"), scores=EVALUATED)
    card = ModelCard.load(path)
    assert card.data.to_dict() == {
        "license": "mit",
        "language": ["en"],
        "base_model": "org/mine",
        "tags": ["a", "sparse", "sparseopd", "on-policy-distillation"],
        "base_model_relation": "adapter",
        "library_name": "peft",
    }
    assert card.text.endswith("\n\n# Mine\n\nMy words.\n") and card.text.count(BEGIN) == 1
    edited = path.read_text().replace(BEGIN, f"Before.\n\n{BEGIN}")
    path.write_text(edited)
    write_card(tmp_path, adapter(base="/data/student"))
    again = path.read_text()
    assert "Before." in again and again.endswith("\n\n# Mine\n\nMy words.\n")
    assert "| Model |" in edited and "| Model |" not in again


def test_the_card_that_peft_makes_is_completed(tmp_path: Path) -> None:
    made = ModelCard.from_template(ModelCardData())  # as PeftModel.create_or_update_model_card does
    made.data["library_name"], made.data["base_model"] = "peft", "/data/student"
    made.data["tags"] = ["base_model:adapter:/data/student", "transformers"]
    made.save(tmp_path / "README.md")
    write_card(tmp_path, adapter(base="/data/student"))
    card = ModelCard.load(tmp_path / "README.md")
    assert "base_model" not in card.data.to_dict() and "sparseopd" in card.data.tags
    assert not any("/data/student" in tag for tag in card.data.tags)
    assert card.text.count(BEGIN) == card.text.count(END) == 1
    assert "# Model Card for Model ID" not in card.text


@pytest.mark.parametrize("is_updated", [False, True])
def test_unanswered_questions_are_dropped_and_words_around_them_stay(
    is_updated: bool, tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    if is_updated:
        write_card(tmp_path, adapter())
    section = ModelCard.load(path).text if is_updated else ""
    template = ModelCard.from_template(ModelCardData()).text
    ends = ("Mine before.", "### Framework versions\n\n- PEFT 0.1\n\nMine after.")
    path.write_text(f"---\n{{}}\n---\n{section}\n{ends[0]}\n{template}\n{ends[1]}\n")
    write_card(tmp_path, adapter())
    text = ModelCard.load(path).text
    assert "[More Information Needed]" not in text and text.count(BEGIN) == 1
    assert text.endswith(f"{END}\n\n{ends[0]}\n\n{ends[1]}\n")
    before = path.read_bytes()
    write_card(tmp_path, adapter())
    assert path.read_bytes() == before


def test_a_template_that_a_user_wrote_into_stays(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    template = ModelCard.from_template(ModelCardData()).text
    mine = template.replace("[More Information Needed]", "Somebody", 1)
    path.write_text(f"---\n{{}}\n---\n{mine}\n")
    write_card(tmp_path, adapter())
    assert ModelCard.load(path).text.strip().endswith(mine.strip())


def test_one_line_shows_what_would_steer_a_terminal() -> None:
    assert one_line("a\u202eb\x1b[31m\nc\x00\u200bd\t e") == "a\ufffdb\ufffd[31m c\ufffd\ufffdd e"


@pytest.mark.parametrize(
    "content", ["---\na: [\n---\n", "---\n- a list\n---\n", b"---\n\xff\n---\n"]
)
def test_a_card_that_cannot_be_read_is_left_alone(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    before = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(before)
    with pytest.raises(AdapterError, match="the metadata of the card"):
        write_card(tmp_path, adapter())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "config, task",
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "text-generation"),
        (
            {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}},
            "image-text-to-text",
        ),
        ({"architectures": ["T5ForConditionalGeneration"]}, None),
        ({"architectures": []}, None),
        ([], None),
    ],
)
def test_the_task_is_named_where_the_architecture_leaves_no_doubt(
    config: Any, task: str | None, tmp_path: Path
) -> None:
    assert task_of(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert task_of(tmp_path) == task


def test_the_command_that_an_evaluation_recorded_comes_first() -> None:
    assert (
        command_of(replace(EVALUATED, settings={"command": "sparseopd demo"})) == "sparseopd demo"
    )
    assert command_of(EVALUATED).startswith(
        "sparseopd evaluate runs/full runs/sparse --recipe RECIPE evaluate.prompts=256"
    )


NASTY = (
    "|", "`", "``", "```", "\n```\n", "<b>", "</table>", BEGIN, END, f"\n{END}\n", "\n", "\r", "\n---\n",
    "# x", "[a](b)", "![x](y)", "*", "**", "_", "__", "~~", "$$", "{{ x }}", "{% raw %}", "{#", "\\", "&amp;",
    "&lt;", "\x1b[31m", "\x00", "\u202e", "\u2028", "\ud800", "'", '"', ": ", "- ", "> ", "    ", "1. ", "a",
)  # fmt: skip
texts = st.lists(st.sampled_from(NASTY) | st.text(max_size=4), min_size=1, max_size=6).map("".join)
nasty = texts.filter(lambda text: bool(one_line(text)))


def shape(markdown: str) -> list[str]:
    """Blocks and what is in their lines, but for the words."""
    found: list[str] = []
    for token in MARKDOWN.parse(markdown):
        found.append(token.type)
        found += [child.type for child in token.children or [] if not child.type.startswith("text")]
    return found


def words(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


def card_with(text: str, name: str, command: str) -> ModelCard:
    """A card with foreign text wherever there can be any."""
    run = replace(RUN, name=text, student=text)
    known = {"base": text, "revision": text, "tuned": text, "selector": text, "version": text}
    made = adapter(text, **known, settings={"include": [text]})
    found = scores(arm(name, "masked", 0.5), name=text, grader=text, temperature=text)
    lossy = replace(MADE, lost=1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_card(
            folder, made, scores=found, command=command, arm=name, run=run, extracted=lossy,
            license=f"{text} terms",
        )  # fmt: skip
        return ModelCard.load(path)


@given(nasty, nasty, nasty)
def test_foreign_text_stays_text(text: str, name: str, command: str) -> None:
    card = card_with(text, name, command)
    assert shape(card.text) == shape(card_with("plain", "name", "command").text)
    tokens = MARKDOWN.parse(card.text)
    assert [token.content for token in tokens if token.type == "html_block"] == [
        f"{BEGIN}\n", f"{END}\n",
    ]  # fmt: skip
    cells = [words(token) for before, token in pairwise(tokens) if before.type == "td_open"]
    assert cells[0] == f"{one_line(name)} (the checkpoint this was taken from)"
    assert [token.content for token in tokens if token.type == "code_block"] == [
        f"{one_line(command)}\n"
    ]
    heading = next(token for token in tokens if token.type == "inline")
    assert words(heading) == f"Sparse adapter for {one_line(text)}"
    assert card.data.license_name == one_line(f"{text} terms")


prose = st.lists(st.sampled_from((*NASTY, "\r\n", "\n\n")) | st.text(max_size=5), max_size=8).map(
    "".join
)


@given(prose, prose)
def test_prose_around_the_section_keeps_its_bytes(before: str, after: str) -> None:
    before, after = (text.encode("utf-8", "replace").decode() for text in (before, after))
    if any(mark in text for mark in (BEGIN, END) for text in (before, after)):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_card(folder, adapter())
        with path.open(encoding="utf-8", newline="") as file:
            head, section = file.read().split(BEGIN)
        content = f"{head}{before}\n{BEGIN}{section}{after}"
        path.write_bytes(content.encode())
        write_card(folder, adapter())
        assert path.read_bytes() == content.encode()
