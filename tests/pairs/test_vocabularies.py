"""Two tokenizers, token by token: alike, one longer than the other, or another altogether."""

from __future__ import annotations

import pytest
from transformers import AddedToken

from sparseopd.errors import PairError
from sparseopd.pairs import check_vocabulary, load_processor
from sparseopd.pairs.loading import Processor, tokenizer_of
from sparseopd.pairs.vocabulary import compare_vocabularies
from sparseopd.recipe import Model


def tokenizer(*added: str) -> Processor:
    found = load_processor(Model(path="bundled:tiny-arithmetic/student"))
    tokenizer_of(found).add_tokens([AddedToken(token, special=True) for token in added])
    return found


def test_the_same_tokens_are_identical() -> None:
    found = compare_vocabularies(tokenizer("<think>"), tokenizer("<think>"))
    assert found.kind == "identical" and not found.differing
    assert check_vocabulary(tokenizer(), tokenizer()) is None


def test_a_teacher_may_have_further_tokens_after_the_students() -> None:
    student, teacher = tokenizer(), tokenizer("<tool>", "<answer>")
    found = compare_vocabularies(student, teacher)
    assert (found.kind, found.differing) == ("teacher-extended", ("<tool>", "<answer>"))
    said = check_vocabulary(student, teacher)
    assert said is not None and said.startswith("the teacher has 2 tokens after the student's last")
    assert "'<tool>', '<answer>'" in said


def test_a_student_with_further_tokens_is_refused() -> None:
    student, teacher = tokenizer("<tool>"), tokenizer()
    assert compare_vocabularies(student, teacher).kind == "student-extended"
    with pytest.raises(PairError, match=r"the student has 1 tokens .* \('<tool>'\)"):
        check_vocabulary(student, teacher)


def test_further_tokens_on_both_sides_or_in_another_order_are_different() -> None:
    found = compare_vocabularies(tokenizer("<a>", "<b>"), tokenizer("<b>", "<a>"))
    assert (found.kind, found.differing) == ("different", ("<a>", "<b>"))
    assert found.example() == "'<a>' is 102 for the student and 103 for the teacher"
    assert compare_vocabularies(tokenizer("<a>"), tokenizer("<b>")).kind == "different"
    with pytest.raises(PairError, match=r"2 of 104 tokens differ \(for one, '<a>' is 102"):
        check_vocabulary(tokenizer("<a>", "<b>"), tokenizer("<b>", "<a>"))


def test_many_tokens_are_not_all_named() -> None:
    found = compare_vocabularies(tokenizer(), tokenizer("<a>", "<b>", "<c>", "<d>"))
    assert found.named() == "'<a>', '<b>', '<c>', …"
