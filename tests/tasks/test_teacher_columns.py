"""Rows may name their teacher, and hold what the teacher alone sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks import load_prompts
from sparseopd.tasks.teacher_prompts import teacher_text

TEMPLATE = "{prompt} | {privileged} | {answer}"


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def load(train: str, *, chat: bool = True, teachers: tuple[str, ...] = (), **settings: Any):
    settings.setdefault("test", train)
    return load_prompts(Data(train=train, **settings), chat=chat, teachers=teachers)


@pytest.fixture
def routed(tmp_path: Path) -> str:
    rows = [{"prompt": f"{n}?", "who": "ab"[n % 2]} for n in range(6)]
    return write(tmp_path / "routed.jsonl", rows)


def test_every_row_keeps_its_teacher(routed: str) -> None:
    loaded = load(routed, teacher="who", teachers=("b", "a"), chat=False)
    assert loaded.train.column_names == ["prompt", "teacher"]
    assert loaded.train[:]["teacher"] == loaded.test[:]["teacher"] == list("ababab")


def test_teachers_may_be_numbers_and_stay_unchecked_without_names(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": "?", "who": 1}, {"prompt": "?", "who": 2}])
    assert load(path, teacher="who", teachers=("1", "2")).train[:]["teacher"] == ["1", "2"]
    assert load(path, teacher="who").train[:]["teacher"] == ["1", "2"]


def test_without_a_column_the_names_do_nothing(routed: str) -> None:
    assert "teacher" not in load(routed, teachers=("a", "b", "c")).train.column_names


@pytest.mark.parametrize(
    ("who", "teachers", "sentence"),
    [
        (["a", "c"], ("a", "b"), "row 2 of .* names the teacher 'c': the teachers are a, b"),
        (["a", None], ("a", "b"), "row 2 of .* names no teacher in who: the teachers are a, b"),
        (["a", " "], (), "row 2 of .* names no teacher in who: several teachers need it"),
        (["a", ["b"]], ("a", "b"), "row 2 of .* has a teacher of type list"),
        (["a", "a"], ("a", "b"), "no training row of .* names the teacher 'b' in who, only a"),
    ],
)
def test_rows_that_route_nowhere(
    tmp_path: Path, who: list[Any], teachers: tuple[str, ...], sentence: str
) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": "?", "who": name} for name in who])
    with pytest.raises(DataError, match=sentence) as raised:
        load(path, teacher="who", teachers=teachers)
    assert "\n" not in str(raised.value)


def test_a_teacher_of_the_test_set_alone_is_idle(tmp_path: Path, routed: str) -> None:
    train = write(tmp_path / "x.jsonl", [{"prompt": "?", "who": "a"}])
    with pytest.raises(DataError, match=r"no training row .* names the teacher 'b'"):
        load(train, test=routed, teacher="who", teachers=("a", "b"))


def test_the_limit_may_leave_a_teacher_idle(routed: str) -> None:
    with pytest.raises(DataError, match="names the teacher 'b'"):
        load(routed, teacher="who", teachers=("a", "b"), limit=1)


def test_only_the_last_user_turn_changes(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2+3="},
        {"role": "assistant", "content": "5"},
    ]
    path = write(tmp_path / "x.jsonl", [{"prompt": turns, "note": "five"}])
    loaded = load(path, privileged="note", privileged_template=TEMPLATE, answer=None)
    for rows in (loaded.train, loaded.test):
        assert rows[0]["prompt"] == turns[:4]
        assert rows[0]["teacher_prompt"] == [
            *turns[:3],
            {"role": "user", "content": "2+3= | five | {answer}"},
        ]


def test_plain_text_prompts_change_whole_but_for_the_system_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": "2+3=", "note": 5.0}])
    loaded = load(path, privileged="note", privileged_template=TEMPLATE, system="Add.", chat=False)
    assert loaded.train[0] == {
        "prompt": "Add.\n\n2+3=",
        "teacher_prompt": "Add.\n\n2+3= | 5 | {answer}",
    }


def test_the_default_template_holds_prompt_and_solution(tmp_path: Path) -> None:
    rows = [{"prompt": r"Find \frac{1}{2}.", "note": r"It is {privileged} \boxed{0.5}"}]
    (turn,) = load(write(tmp_path / "x.jsonl", rows), privileged="note").train[0]["teacher_prompt"]
    assert turn["content"].startswith(r"Find \frac{1}{2}.")
    assert r"It is {privileged} \boxed{0.5}" in turn["content"]


@given(st.text(), st.text())
def test_braces_of_the_texts_survive(prompt: str, privileged: str) -> None:
    filled = teacher_text("<{prompt}><{privileged}><{}>{x", prompt, privileged)
    assert filled == f"<{prompt}><{privileged}><{{}}>{{x"
    assert teacher_text("{prompt}", "{privileged}", "secret") == "{privileged}"


@pytest.mark.parametrize(
    ("note", "sentence"),
    [
        (None, "row 2 of .* has an empty note, which data.privileged shows to the teacher"),
        ("\n", "row 2 of .* has an empty note"),
        (["5"], "row 2 of .* has a privileged text of type list"),
    ],
)
def test_rows_without_a_privileged_text(tmp_path: Path, note: Any, sentence: str) -> None:
    path = write(
        tmp_path / "x.jsonl", [{"prompt": "a", "note": "b"}, {"prompt": "c", "note": note}]
    )
    with pytest.raises(DataError, match=sentence) as raised:
        load(path, privileged="note")
    assert "\n" not in str(raised.value)


def test_the_test_set_needs_the_columns_too(tmp_path: Path, routed: str) -> None:
    other = write(tmp_path / "other.jsonl", [{"prompt": "?"}])
    for setting in ("teacher", "privileged"):
        with pytest.raises(DataError, match=r"other.jsonl has no column 'who'"):
            load(routed, test=other, **{setting: "who"})
