"""Do student and teacher speak the same tokens? The commonest silent bug of distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from sparseopd.errors import PairError
from sparseopd.pairs.loading import Processor, tokenizer_of

Kinship = Literal["identical", "teacher-extended", "student-extended", "different"]


@dataclass(frozen=True)
class Vocabularies:
    """How the tokens of a student's and a teacher's tokenizer compare."""

    kind: Kinship
    """Extended: one side has further tokens, all after the last of the other, and the rest is equal."""
    student: dict[str, int]
    teacher: dict[str, int]
    """Both with each token's id."""
    differing: tuple[str, ...]
    """Tokens that one side lacks or numbers otherwise; extensions in the order of their ids."""

    def example(self) -> str:
        """Name a differing token and its two ids."""
        token = self.differing[0]
        ours, theirs = self.student.get(token, "absent"), self.teacher.get(token, "absent")
        return f"{token!r} is {ours} for the student and {theirs} for the teacher"

    def named(self, count: int = 3) -> str:
        """Name the first few differing tokens."""
        more = ", …" if len(self.differing) > count else ""
        return ", ".join(map(repr, self.differing[:count])) + more


def compare_vocabularies(student: Processor, teacher: Processor) -> Vocabularies:
    """Compare two tokenizers token by token, added tokens included."""
    ours, theirs = tokenizer_of(student).get_vocab(), tokenizer_of(teacher).get_vocab()
    if ours == theirs:
        return Vocabularies("identical", ours, theirs, ())
    sides: tuple[tuple[Kinship, dict[str, int], dict[str, int]], ...] = (
        ("teacher-extended", theirs, ours),
        ("student-extended", ours, theirs),
    )
    for kind, larger, smaller in sides:
        further = larger.keys() - smaller.keys()
        if _extends(larger, smaller, further):
            return Vocabularies(kind, ours, theirs, tuple(sorted(further, key=larger.__getitem__)))
    differing = [t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t)]
    return Vocabularies("different", ours, theirs, tuple(sorted(differing)))


def check_vocabulary(student: Processor, teacher: Processor) -> str | None:
    """Compare two tokenizers token by token, and their end-of-sequence tokens.

    A teacher may have further tokens after all of the student's: `match_teacher` leaves out their rows.
    Returns a sentence that says so, None where the tokens are the same. Raises `PairError` saying how
    many tokens differ and naming one.
    """
    found = compare_vocabularies(student, teacher)
    if found.kind == "student-extended":
        raise PairError(
            f"the student has {len(found.differing)} tokens that the teacher lacks and cannot score "
            f"({found.named()}): choose a teacher with the student's tokenizer"
        )
    if found.kind == "different":
        raise PairError(
            f"student and teacher have different vocabularies: {len(found.differing)} of "
            f"{max(len(found.student), len(found.teacher))} tokens differ (for one, {found.example()}): "
            "choose a teacher with the student's tokenizer"
        )
    ends = tokenizer_of(student).eos_token, tokenizer_of(teacher).eos_token
    if ends[0] != ends[1]:
        raise PairError(
            f"student and teacher end a sequence with different tokens, {ends[0]!r} and {ends[1]!r}: "
            "set eos_token alike in both tokenizer_config.json files"
        )
    if found.kind == "identical":
        return None
    return (
        f"the teacher has {len(found.differing)} tokens after the student's last ({found.named()}), which "
        "the student cannot write: their rows beyond the student's vocabulary are left out"
    )


def match_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Drop the teacher's padding rows beyond the student's vocabulary; return how many.

    Qwen2.5's small and large models share a tokenizer but pad their embeddings to 151,936 and
    152,064 rows; the extra rows are never sampled. Raises `PairError` where the student's are more.
    """
    wanted = student.config.get_text_config().vocab_size
    has = teacher.config.get_text_config().vocab_size
    if has < wanted:
        raise PairError(fewer_rows(wanted, has))
    if has > wanted:
        teacher.resize_token_embeddings(wanted)
    return has - wanted


def fewer_rows(student: int, teacher: int) -> str:
    """Say that a teacher cannot score every token, in the words of the error."""
    return (
        f"the student's vocabulary has {student} rows and the teacher's only {teacher}: distillation "
        "needs a teacher that scores every token of the student"
    )


def _extends(larger: dict[str, int], smaller: dict[str, int], further: set[str]) -> bool:
    """Whether `larger` is `smaller` with further tokens after its last."""
    if not further or len(larger) - len(further) != len(smaller):
        return False
    last = max(smaller.values(), default=-1)
    return all(larger[token] > last for token in further) and all(
        larger[token] == place for token, place in smaller.items()
    )
