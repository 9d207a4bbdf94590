"""Tokenizers of the tiny pairs: one token a printable character, whole words where asked.

A turn reads `<|user|>123+456=<|end|>`, and `<|end|>` is the end-of-sequence token, so what the
chat template renders for an assistant turn is exactly what the model is taught to write.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN, IMAGE = "<|pad|>", "<|end|>", "<|unknown|>", "<image>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHARACTERS = (*(chr(code) for code in range(32, 127)), "\n")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('unknown role: ' + message['role']) -}}
    {%- endif -%}
    {{- '<|' + message['role'] + '|>' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}{{- part['text'] -}}
            {%- elif part['type'] == 'image' -%}{{- '<image>' -}}
            {%- else -%}{{- raise_exception('unknown content: ' + part['type']) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def character_tokenizer(
    words: Sequence[str] = (), *, images: bool = False
) -> PreTrainedTokenizerFast:
    """Build a tokenizer of single characters plus `words`, with the chat template set.

    Args:
        words: strings that are one token each wherever they stand as a whole word.
        images: whether `<image>` is a token of its own.
    """
    special = [PAD, END, UNKNOWN, *ROLES, *([IMAGE] if images else [])]
    backend = _backend(special, words)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE} if images else None,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _backend(special: Sequence[str], words: Sequence[str]) -> Tokenizer:
    """Assemble the `tokenizers` pipeline: split into characters, look up, join again."""
    vocab = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    return backend
