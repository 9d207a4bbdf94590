"""The page of an analysis stands alone, escapes everything, and bears missing pieces."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

import pytest

from sparseopd.analysis import Analysis
from sparseopd.errors import RunFolderError
from sparseopd.report import write_analysis
from sparseopd.report.analysis_page import render
from sparseopd.report.figures import Drawing
from tests.report.analyses import HOSTILE, hostile, odd, structured, with_master, without_nulls
from tests.report.reading import Page

VISIBLE = HOSTILE.replace("\x1b", "\ufffd").replace("\x00", "\ufffd")


def rendered(*analyses: Analysis) -> str:
    return render(analyses, title="a title", command="sparseopd analyze a b")


@cache
def one() -> str:
    return rendered(structured())


@cache
def two() -> str:
    return rendered(structured(), with_master())


def test_page_reaches_out_to_nothing() -> None:
    html = two()
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|data:", html)
    assert not page.tags.keys() & {"script", "link", "img", "image", "iframe", "object"}
    references = page.values("href") + page.values("src")
    references += re.findall(r"url\(([^)]*)\)", html)
    assert references and all(reference.startswith("#") for reference in references)


def test_every_reference_has_its_own_id() -> None:
    html = two()
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 50
    wanted = [reference[1:] for reference in page.values("href")] + page.values("aria-labelledby")
    wanted += [reference[1:] for reference in re.findall(r"url\((#[^)]*)\)", html)]
    assert len(wanted) > 20 and set(wanted) <= set(ids)


def test_page_shows_every_part_in_order() -> None:
    html = one()
    positions = [
        html.index(part)
        for part in (
            structured().findings[0].split(":")[0],
            "stored bfloat16 and bfloat16, compared in bfloat16, summed in float64",
            "3 draws of each null",
            "Main figures and their nulls",
            "<figure>",
            "In the paper&#39;s columns",
            "offline KD, Qwen2.5-Math-1.5B",
            "By block",
            "By module",
            "Settings",
            "sparseopd analyze a b</code>",
            "What the figures mean",
        )
    ]
    assert positions == sorted(positions)
    page = Page(html)
    assert page.tags["figure"] == page.tags["svg"] == 6 and page.open == []
    assert page.tags["section"] == 1 and page.tags["table"] == 6


def test_every_table_and_figure_names_its_csv() -> None:
    text = Page(one()).all_text()
    assert set(re.findall(r"CSV: (\S+\.csv)\.", text)) == {
        *("whole.csv", "tensors.csv", "spectra.csv", "joint.csv", "groups.csv", "paper_row.csv")
    }


def test_figures_stand_beside_before_rounding_nulls_and_verdict() -> None:
    page = Page(rendered(with_master()))
    headings = [text.strip() for text in page.text["th"]]
    assert {"Observed", "Before rounding", "Shuffled", "Dense noise", "Verdict"} <= set(headings)
    verdicts = [
        text for text in page.text["td"] if text in ("beyond rounding", "differs", "as null")
    ]
    assert "beyond rounding" in verdicts and len(verdicts) > 30
    assert any(re.fullmatch(r"[\d.]+ ± [\d.e-]+", text) for text in page.text["td"])


def test_without_nulls_no_column_speaks_of_them() -> None:
    page = Page(rendered(without_nulls()))
    headings = {text.strip() for text in page.text["th"]}
    assert "Observed" in headings and not headings & {"Shuffled", "Dense noise", "Verdict"}
    assert "±" not in " ".join(page.text["td"])


def test_modules_beyond_rounding_are_bold() -> None:
    page = Page(one())
    assert ("td", "class", "found") in page.attributes
    assert "Bold: beyond rounding" in page.all_text()


def test_several_updates_stand_side_by_side_then_apart() -> None:
    html = two()
    page = Page(html)
    assert page.tags["section"] == 3 and "The updates side by side" in page.text["h2"]
    assert html.index("The updates side by side") < html.index("Main figures and their nulls")
    assert html.count("offline KD, Qwen2.5-Math-1.5B") == 1, "the paper's runs stand there once"
    assert [link for link in page.values("href") if link in ("#a1", "#a2")] == ["#a1", "#a2"]
    text = page.all_text()
    assert "CSV: structured/whole.csv." in text and "CSV: with-master/joint.csv." in text


@pytest.mark.parametrize("count", [1, 2])
def test_more_figures_are_shown_once(count: int) -> None:
    more = Drawing("Over time", "by step", '<svg role="img" aria-label="a course"></svg>')
    page = Page(render([odd("nothing moved")] * count, title="t", command="c", more=[more]))
    assert page.text["h3"].count("Over time") == 1
    assert page.values("aria-label").count("a course") == 1


def test_hostile_text_stays_text() -> None:
    html = render([hostile()] * 2, title=HOSTILE, command=HOSTILE)
    page = Page(html)
    assert page.tags["script"] == 0 and page.open == []
    assert page.tags["html"] == page.tags["title"] == 1
    assert "".join(page.text["title"]) == VISIBLE
    assert VISIBLE in "".join(page.text["code"])
    names = [name.replace("\u00a0", " ") for name in page.text["bdi"]]
    assert names.count(VISIBLE) == 8, "in answers, in the table of both, above sections, of modules"
    html.encode("utf-8")


@pytest.mark.parametrize(
    "name", ["no nulls", "one draw", "nothing moved", "vectors alone", "one matrix"]
)
def test_what_is_missing_is_left_out(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page(rendered(odd(name)))
    assert page.open == []
    assert not re.search(r"\b(nan|inf|None|undefined)\b", page.all_text())


def test_same_analysis_same_bytes(tmp_path: Path) -> None:
    structured().save(tmp_path / "analysis.json")
    again = Analysis.load(tmp_path / "analysis.json")
    for name, one in (("a.html", structured()), ("b.html", again)):
        write_analysis([one], tmp_path / name, title="t", command="c")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"a\.html"):
        write_analysis([structured()], tmp_path / "missing" / "a.html", title="t", command="c")
    with pytest.raises(ValueError, match="at least one"):
        write_analysis([], tmp_path / "a.html", title="t", command="c")
