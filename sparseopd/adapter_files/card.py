"""The model card of an adapter: README.md, ready for `push_to_hub`.

What a user has written stays: of a card that exists, the part between two comments is replaced, and of
its metadata what the adapter knows.
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card_metadata import describe, license_of
from sparseopd.adapter_files.card_scores import command_of, conditions, filled_columns
from sparseopd.adapter_files.card_text import code, finalize, one_line, value_text
from sparseopd.adapter_files.format import CARD
from sparseopd.artifacts import RunFacts, Scores, written_whole
from sparseopd.errors import AdapterError

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

    from sparseopd.adapter_files.extract import Extracted

BEGIN, END = "<!-- sparseopd -->", "<!-- /sparseopd -->"
"""Lines around the part of a card that is written anew."""
TAGS = ("sparseopd", "sparse")
ON_POLICY = "on-policy-distillation"
_TEMPLATE_TITLE = "# Model Card for Model ID"
_SECTION = re.compile(rf"^{BEGIN}[ \t\r]*$.*?^{END}[ \t]*", re.MULTILINE | re.DOTALL)


def write_card(
    folder: str | Path,
    adapter: SparseAdapter,
    *,
    license: str | None = None,
    scores: Scores | None = None,
    command: str | None = None,
    arm: str | None = None,
    run: RunFacts | None = None,
    extracted: Extracted | None = None,
    pipeline_tag: str | None = None,
) -> Path:
    """Write README.md, or bring the one that is there up to date; return its path.

    Args:
        folder: the adapter's.
        license: an identifier of the hub, or any other name. Default: what the card has, or `unknown`.
        scores: an evaluation, and `command`, what made it. Default: one that repeats it.
        arm: the name in `scores` of the checkpoint that the adapter was taken from.
        run: the training behind the adapter.
        extracted: how far the adapter is from the checkpoint it was taken from.
        pipeline_tag: the hub's name of what the model does (`card_metadata.task_of`).

    Raises `AdapterError` if the card that is there cannot be read.
    """
    path = Path(folder) / CARD
    card = _opened(path)
    data = cast("ModelCardData", card.data)
    distilled = bool(adapter.teacher) and (run is None or run.kind != "contrast")
    describe(
        data,
        base=adapter.mask.provenance.base,
        tags=[*TAGS, *[ON_POLICY] * distilled],
        license=license,
        pipeline_tag=pipeline_tag,
    )
    section = (
        _environment()
        .get_template("card.md.j2")
        .render(
            **_facts(adapter),
            **_evaluation(scores, command, arm),
            **_faithfulness(extracted),
            license=license_of(data),
            run=run,
        )
    )
    card.text = _placed(_without_template(card.text), section)
    with written_whole(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8", newline="")
    return path


def _opened(path: Path) -> ModelCard:
    """Open the card that is there, or an empty one."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        content = ""
        if path.is_file():
            with path.open(encoding="utf-8-sig", newline="") as file:
                content = file.read()
        if not content.lstrip().startswith("---"):
            content = f"---\n{{}}\n---\n{content}"
        return ModelCard(content)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise AdapterError(
            f"the metadata of the card {path} cannot be read ({one_line(str(error))}): correct it, or "
            "move the file away"
        ) from error


def _facts(adapter: SparseAdapter) -> dict[str, Any]:
    """Return what the adapter says of itself."""
    known = adapter.mask.provenance
    dtypes = sorted({str(adapter.dtype(name)).removeprefix("torch.") for name in adapter.touched})
    return {
        "base": known.base or "an unnamed base",
        "shell_base": Markup(shlex.quote(one_line(known.base)) if known.base else "BASE"),
        "revision": known.revision,
        "teacher": adapter.teacher,
        "k": adapter.count(),
        "numel": adapter.mask.numel(),
        "density": f"{100 * adapter.mask.density():.3g}",
        "tensors": len(adapter.names),
        "touched": len(adapter.touched),
        "dtypes": " and ".join(dtypes),
        "base_state": adapter.base_state(),
        "result_state": adapter.result_state(),
        "selector": known.selector,
        "settings": value_text(known.settings),
        "steps": known.steps,
        "tuned": known.tuned,
        "version": known.version,
    }


def _evaluation(scores: Scores | None, command: str | None, arm: str | None) -> dict[str, Any]:
    if scores is None:
        return {"scores": None}
    return {
        "scores": scores,
        "columns": filled_columns(scores),
        "conditions": conditions(scores),
        "command": Markup(one_line(command or command_of(scores))),
        "scored": arm,
    }


def _faithfulness(extracted: Extracted | None) -> dict[str, Any]:
    """Say how the model that the adapter makes differs from the checkpoint it was taken from."""
    if extracted is None:
        return {"exact": False, "inexact": ""}
    lost = f"{extracted.lost:,} of {extracted.changed:,} changed weights are left out"
    rounded = f"{extracted.rounded:,} weights are rounded to the dtype of the base"
    parts = [*[lost] * bool(extracted.lost), *[rounded] * bool(extracted.rounded)]
    return {"exact": not parts, "inexact": " and ".join(parts)}


@cache
def _environment() -> Environment:
    """Escape everything that is printed."""
    made = Environment(
        loader=PackageLoader("sparseopd.adapter_files", "."),
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = code
    return made


def _without_template(text: str) -> str:
    """Drop the questions that PEFT writes for a user to answer, where none of them was.

    A body that was written into is no longer the hub's own, and stays.
    """
    if _TEMPLATE_TITLE not in text:
        return text
    from huggingface_hub import ModelCard, ModelCardData

    before, unanswered, after = text.partition(
        ModelCard.from_template(ModelCardData()).text.strip()
    )
    if not unanswered:
        return text
    return "\n\n".join(filter(None, (before.rstrip(), after.strip()))) + "\n"


def _placed(text: str, section: str) -> str:
    """Put the section where the last one was, or first."""
    whole = f"{BEGIN}\n{section.strip()}\n{END}"
    if _SECTION.search(text):
        return _SECTION.sub(lambda _: whole, text, count=1)
    rest = text.lstrip("\r\n")
    return f"\n{whole}\n\n{rest}" if rest.strip() else f"\n{whole}\n"
