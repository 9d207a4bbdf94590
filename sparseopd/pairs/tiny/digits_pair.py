"""Recipe of `tiny-digits`: a vision-language student that often answers wrong, and its teacher."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from sparseopd.pairs.tiny import digits, supervised
from sparseopd.pairs.tiny.architectures import IMAGE_TOKENS, llava, llava_processor
from sparseopd.pairs.tiny.digits import Scans
from sparseopd.pairs.tiny.vocabulary import IMAGE, character_tokenizer

LICENSE = "LICENSE-optdigits.txt"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stretch of supervised training."""

    steps: int
    batch: int
    peak_lr: float
    images: int | None = None
    """How many of the training scans are seen; all by default."""
    wrong: float = 0.0
    """Share of answers that are wrong."""


def build(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-digits`: a student taught wrong answers, and a larger, well-taught teacher."""
    tokenizer = character_tokenizer(digits.WORDS, images=True)
    train, test = digits.load_scans()
    write_rows(out, train, test)
    processor = llava_processor(tokenizer)
    student = _model(tokenizer, seed, width=96, layers=2, vision_width=64)
    noisy = Lesson(steps=1500, batch=64, peak_lr=1e-3, wrong=0.35)
    teach(student, tokenizer, noisy, train, seed=seed, scale=scale)
    supervised.save(student, processor, out / "student")
    teacher = _model(tokenizer, seed + 1, width=128, layers=3, vision_width=96)
    clean = Lesson(steps=2500, batch=96, peak_lr=1e-3)
    teach(teacher, tokenizer, clean, train, seed=seed + 1, scale=scale)
    supervised.save(teacher, processor, out / "teacher")


def write_rows(out: Path, train: Scans, test: Scans) -> None:
    """Write `train.parquet`, every question of every scan, and `test.parquet`, one of each scan."""
    every = [(row, question) for row in range(len(train)) for question in digits.QUESTIONS]
    _write_parquet(out / "train.parquet", train, every)
    one = [(row, digits.QUESTIONS[row % len(digits.QUESTIONS)]) for row in range(len(test))]
    _write_parquet(out / "test.parquet", test, one)
    shipped = files("sparseopd.pairs.tiny").joinpath("tiny-digits", LICENSE)
    (out / LICENSE).write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")


def teach(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    lesson: Lesson,
    scans: Scans,
    *,
    seed: int,
    scale: float,
) -> None:
    """Train `model` in place on questions about augmented scans; `scale` multiplies the steps."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    values = digits.pixel_values(scans.pixels)
    prompts = {question: _prompt(tokenizer, question) for question in digits.QUESTIONS}
    seen = lesson.images or len(scans)

    def batch(_step: int) -> supervised.Batch:
        rows = [rng.randrange(seen) for _ in range(lesson.batch)]
        asked = [rng.choice(digits.QUESTIONS) for _ in rows]
        labels = [int(scans.labels[row]) for row in rows]
        replies = [_reply(q, d, lesson.wrong, rng) for q, d in zip(asked, labels, strict=True)]
        encoded = supervised.encode(tokenizer, [prompts[q] for q in asked], replies)
        return encoded | {"pixel_values": digits.augment(values[rows], generator)}

    steps = max(1, round(lesson.steps * scale))
    supervised.fit(model, batch, steps=steps, peak_lr=lesson.peak_lr)


def _prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Render a question about an image as the processor would, one `<image>` a patch."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return supervised.render(tokenizer, content).replace(IMAGE, IMAGE * IMAGE_TOKENS)


def _reply(question: str, label: int, wrong: float, rng: random.Random) -> str:
    """Answer a question, wrongly with probability `wrong`."""
    if rng.random() < wrong:
        return digits.wrong_answer(question, label, rng)
    return digits.answer(question, label)


def _model(
    tokenizer: PreTrainedTokenizerBase, seed: int, *, width: int, layers: int, vision_width: int
) -> LlavaForConditionalGeneration:
    """Make an untrained fp32 model from a seed."""
    torch.manual_seed(seed)
    config = llava(tokenizer, width=width, layers=layers, vision_width=vision_width)
    return LlavaForConditionalGeneration(config)


def _write_parquet(path: Path, scans: Scans, asked: Sequence[tuple[int, str]]) -> None:
    """Write (row of the scan, question) pairs with PNG bytes in a `datasets` Image column."""
    from datasets import Dataset, Features, Image, Value

    columns = {
        "image": [{"bytes": digits.png(scans.pixels[row]), "path": None} for row, _ in asked],
        "prompt": [question for _, question in asked],
        "answer": [digits.answer(question, int(scans.labels[row])) for row, question in asked],
    }
    features = Features({"image": Image(), "prompt": Value("string"), "answer": Value("string")})
    Dataset.from_dict(columns, features=features).to_parquet(path)
