"""A comparison as tables for the terminal, within 80 columns."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from sparseopd.artifacts import Interval
from sparseopd.report import words
from sparseopd.report.comparison_arms import against_full, against_random, grouped, main
from sparseopd.report.table import bare_table
from sparseopd.results import ArmResult, Results, Study

SHORT = {"equal": "equal", "lower": "lower", "higher": "higher", "not settled": "open"}
SHORT_RANDOM = {"better": "better", "worse": "worse", "not settled": "open"}


def comparison_tables(results: Results) -> list[Table]:
    """Make a table of the studies, where there are several, then one of every study's arms.

    None is wider than 80 columns whatever the figures; long names wrap. "open": the test settles
    neither. Names are shown as they are: markup and control codes in them do nothing.
    """
    studies = [study for study in results.studies if study.arms]
    tables = [_studies_table(studies)] if len(studies) > 1 else []
    return tables + [_arms_table(study, titled=len(results.studies) > 1) for study in studies]


def _studies_table(studies: list[Study]) -> Table:
    table = bare_table("Study")
    for heading in ("Mask\n%", "Gain kept\n% of full", "Against\nfull", "Against\nrandom"):
        table.add_column(heading, justify="right", no_wrap=True)
    for study in studies:
        arm = main(study)
        cells = [Text(words.MISSING)] * 4 if arm is None else _main_cells(arm)
        table.add_row(Text(words.clean(study.name)), *cells)
    return table


def _main_cells(arm: ArmResult) -> list[Text]:
    return [_density(arm), _interval(arm.kept, words.kept), *_verdicts(arm)]


def _arms_table(study: Study, *, titled: bool) -> Table:
    graded = any(arm.accuracy for arm in study.arms)
    table = bare_table(f"Arm{'' if graded else ' (no grader)'}", min_width=7)
    if titled:
        table.title = Text(words.shorten(study.name, 78), style="bold")
        table.title_justify = "left"
    headings = ["Mask\n%", "lr"]
    if graded:
        headings += ["Accuracy\n%", "Kept\n%", "vs\nfull", "vs\nrandom"]
    for heading in [*headings, "KL\nnats"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for arms in grouped(study).values():
        for arm in arms:
            table.add_row(Text(words.clean(arm.name)), *_cells(arm, graded=graded))
        table.add_section()
    return table


def _cells(arm: ArmResult, *, graded: bool) -> list[Text]:
    lr = words.MISSING if arm.lr is None else words.rate(arm.lr)
    cells = [_density(arm), Text(lr)]
    if graded:
        kept = words.show(arm.kept.mean if arm.kept else None, words.kept)
        cells += [_interval(arm.accuracy, words.accuracy), Text(kept), *_verdicts(arm)]
    return [*cells, Text(words.show(arm.kl.mean if arm.kl else None, words.scientific))]


def _density(arm: ArmResult) -> Text:
    if arm.density is None and arm.kind in ("full", "contrast"):
        return Text("100")
    return Text(words.show(arm.density, words.density))


def _verdicts(arm: ArmResult) -> list[Text]:
    full = SHORT.get(against_full(arm.equivalence), words.MISSING)
    random = SHORT_RANDOM.get(against_random(arm.superiority), words.MISSING)
    return [
        Text(text, style="bold" if text in ("equal", "better") else "") for text in (full, random)
    ]


def _interval(value: Interval | None, form: words.Form) -> Text:
    if value is None:
        return Text(words.MISSING)
    text = Text(words.show(value.mean, form))
    return text.append(f" {words.bracket(value, form)}", style="dim")
