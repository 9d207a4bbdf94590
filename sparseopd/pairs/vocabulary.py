"""Do student and teacher speak the same tokens? The commonest silent bug of distillation."""

from __future__ import annotations

from transformers import PreTrainedModel

from sparseopd.errors import PairError
from sparseopd.pairs.loading import Processor, tokenizer_of


def check_vocabulary(student: Processor, teacher: Processor) -> None:
    """Compare two tokenizers token by token, and their end-of-sequence tokens.

    Raises `PairError` saying how many tokens differ and naming one.
    """
    ours, theirs = tokenizer_of(student).get_vocab(), tokenizer_of(teacher).get_vocab()
    differing = sorted(
        token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
    )
    if differing:
        token = differing[0]
        raise PairError(
            f"student and teacher have different vocabularies: {len(differing)} of "
            f"{max(len(ours), len(theirs))} tokens differ (for one, {token!r} is "
            f"{ours.get(token, 'absent')} for the student and {theirs.get(token, 'absent')} for the "
            "teacher): choose a teacher with the student's tokenizer"
        )
    ends = tokenizer_of(student).eos_token, tokenizer_of(teacher).eos_token
    if ends[0] != ends[1]:
        raise PairError(
            f"student and teacher end a sequence with different tokens, {ends[0]!r} and {ends[1]!r}: "
            "set eos_token alike in both tokenizer_config.json files"
        )


def match_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Drop the teacher's padding rows beyond the student's vocabulary; return how many.

    Qwen2.5's small and large models share a tokenizer but pad their embeddings to 151,936 and
    152,064 rows; the extra rows are never sampled. Raises `PairError` where the student's are more.
    """
    wanted = student.config.get_text_config().vocab_size
    has = teacher.config.get_text_config().vocab_size
    if has < wanted:
        raise PairError(
            f"the student's vocabulary has {wanted} rows and the teacher's only {has}: distillation "
            "needs a teacher that scores every token of the student"
        )
    if has > wanted:
        teacher.resize_token_embeddings(wanted)
    return has - wanted
