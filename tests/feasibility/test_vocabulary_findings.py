"""What is said of the tokens, special tokens and templates of a pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparseopd.feasibility.templates import check_templates
from sparseopd.feasibility.vocabularies import check_special_tokens, check_tokens
from tests.feasibility.folders import STUDENT, look, one, write_model


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "student", tmp_path / "teacher"


def test_a_bundled_pair_is_alike_in_everything() -> None:
    subject, _ = look(STUDENT, "bundled:tiny-arithmetic/teacher")
    one(check_tokens(subject), "ok", "student and teacher have the same 102 tokens")
    one(check_special_tokens(subject), "ok", "end with '<|end|>' and pad with '<|pad|>'")
    one(check_templates(subject), "ok", "render a conversation alike")


def test_padding_rows_of_the_teacher_are_left_out_and_the_students_refused(pair) -> None:
    """The sizes of Qwen2.5's small and large models."""
    small, large = pair
    write_model(small, vocab_size=151936)
    write_model(large, vocab_size=152064)
    found = check_tokens(look(small, large)[0])
    one(found, "ok", "the same 102 tokens")
    one(found, "note", "152,064 rows and the student 151,936: the last 128 are left out")
    one(check_tokens(look(large, small)[0]), "error", "152064 rows and the teacher's only 151936")


def test_a_longer_teacher_is_cut_where_the_student_has_no_rows(pair) -> None:
    student, teacher = pair
    write_model(student)
    write_model(teacher, vocab_size=104).add_tokens(["<a>", "<b>"])
    longer = write_model(teacher, vocab_size=104)
    longer.add_tokens(["<a>", "<b>"])
    longer.save_pretrained(teacher)
    found = [finding.sentence for finding in check_tokens(look(student, teacher)[0])]
    assert found[0].startswith("teacher has 2 tokens after the student's last ('<a>', '<b>')")
    assert "left out" in found[0] and "the last 2 are left out" in found[1]
    write_model(student, vocab_size=128)
    write_model(teacher, vocab_size=128)
    longer.save_pretrained(teacher)
    one(
        check_tokens(look(student, teacher)[0]),
        "warning",
        "2 of them where the student has padding",
    )
    one(
        check_tokens(look(teacher, student)[0]),
        "error",
        "the student has 2 tokens that teacher lacks",
    )


def test_another_tokenizer_is_refused_with_an_example() -> None:
    subject, _ = look(STUDENT, "bundled:tiny-digits/teacher")
    [found] = check_tokens(subject)
    one([found], "error", "differ in 107 tokens (for one, ", "choose a teacher")


def test_special_tokens_are_compared_one_by_one(pair) -> None:
    student, teacher = pair
    write_model(student)
    other = write_model(teacher)
    other.pad_token = "<|unknown|>"  # pyright: ignore
    other.save_pretrained(teacher)
    one(check_special_tokens(look(student, teacher)[0]), "note", "pad token is '<|pad|>'")
    other.eos_token = "<|pad|>"  # pyright: ignore
    other.save_pretrained(teacher)
    one(check_special_tokens(look(student, teacher)[0]), "error", "set eos_token alike in both")


def test_lists_of_ending_tokens_are_compared(pair) -> None:
    student, teacher = pair
    write_model(student)
    write_model(teacher)
    (teacher / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 0]}))
    found = one(check_special_tokens(look(student, teacher)[0]), "warning", "'<|pad|>' ends a")
    assert "generation_config.json" in found.sentence


def template(folder: Path, text: str | None) -> None:
    tokenizer = write_model(folder)
    tokenizer.chat_template = text  # pyright: ignore
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)


def test_templates_that_differ_are_shown_where_they_part(pair) -> None:
    student, teacher = pair
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    template(student, turns)
    template(teacher, turns.replace("[{{ m.role }}]", "<{{ m.role }}>"))
    found = one(check_templates(look(student, teacher)[0]), "warning", "'[system] Answer briefly")
    assert "and teacher as …'<system> Answer" in found.sentence


def test_templates_are_rendered_with_the_recipes_variables(pair) -> None:
    student, teacher = pair
    template(student, "{{ messages[-1].content }}")
    template(teacher, "{{ messages[-1].content }}{% if not enable_thinking %}<quiet>{% endif %}")
    one(check_templates(look(student, teacher)[0]), "warning", "<quiet>")
    words = "data.chat_template.enable_thinking=true"
    one(check_templates(look(student, teacher, words)[0]), "ok", "alike")


def test_a_template_that_is_missing_is_told(pair) -> None:
    student, teacher = pair
    template(student, "{{ messages[-1].content }}")
    template(teacher, None)
    one(check_templates(look(student, teacher)[0]), "note", "teacher has none")
    one(check_templates(look(teacher, student)[0]), "warning", "the student has none")
    one(check_templates(look(teacher, teacher)[0]), "ok", "prompts stay plain text")


def test_a_template_that_refuses_a_system_turn_is_given_none(pair) -> None:
    student, teacher = pair
    picky = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    )
    template(student, picky + "{{ messages[-1].content }}")
    template(teacher, "{{ messages[-1].content }}!")
    found = one(check_templates(look(student, teacher)[0]), "warning")
    assert "no system turn" not in found.sentence and "!" in found.sentence


def test_every_teacher_is_compared(tmp_path: Path) -> None:
    words = ["teachers={a: bundled:tiny-arithmetic/teacher, b: bundled:tiny-digits/teacher}"]
    words += ["teacher=null", "data.teacher=skill"]
    found = check_tokens(look(STUDENT, "x", *words)[0])
    assert [finding.level for finding in found] == ["ok", "error"]
    assert "teachers.a" in found[0].sentence and "teachers.b" in found[1].sentence
