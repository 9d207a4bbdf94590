"""The page stands alone, escapes everything, repeats to the byte, and bears missing pieces."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sparseopd.artifacts import Interval, RunDir, Scores
from sparseopd.errors import RunFolderError
from sparseopd.report import write_report
from sparseopd.report.page import render
from tests.report.builders import arm, curve, interval, pair, scores
from tests.report.reading import Page

HOSTILE = (
    "<script>alert(1)</script></svg></pre>\"'{{ 7*7 }}{% if %} $x_1$ &lt; --> ]]> 漢"
    "\x1b[31m\x00\ud800"
)
VISIBLE = HOSTILE.replace("\x1b", "\ufffd").replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


def rendered(*evaluations: Scores) -> str:
    return render(list(evaluations), title="a title", command="sparseopd demo")


def hostile() -> Scores:
    example = {"prompt": HOSTILE, "completion": HOSTILE, "answer": HOSTILE, "correct": HOSTILE}
    rows = [{"layer": layer, "module": HOSTILE, "count": 1, "numel": 9} for layer in (0, None)]
    arms = [
        arm(
            HOSTILE,
            kind,
            0.5,
            kl=interval(0.1),
            curve=curve(1, 0.1),
            layout=rows,
            examples=[example],
            gain=interval(0.1),
            gain_kept=interval(0.9),
            density=0.1,
        )
        for kind in ("full", "masked", HOSTILE)
    ]
    return scores(*arms, name=HOSTILE, **{HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}})


def test_page_reaches_out_to_nothing() -> None:
    html = rendered(pair(), pair(vision=2))
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|data:", html)
    assert not page.tags.keys() & {
        "script",
        "link",
        "img",
        "image",
        "iframe",
        "object",
    }
    references = page.values("href") + page.values("xlink:href") + page.values("src")
    references += re.findall(r"url\(([^)]*)\)", html)
    assert references and all(reference.startswith("#") for reference in references)


def test_every_reference_has_its_own_id() -> None:
    html = rendered(pair(), pair(vision=2))
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 50
    wanted = [reference[1:] for reference in page.values("href")]
    wanted += [reference[1:] for reference in re.findall(r"url\((#[^)]*)\)", html)]
    assert len(wanted) > 20 and set(wanted) <= set(ids)


def test_hostile_text_stays_text() -> None:
    html = render([hostile()], title=HOSTILE, command=HOSTILE)
    page = Page(html)
    assert page.tags["script"] == 0 and page.open == []
    assert page.tags["html"] == page.tags["title"] == 1
    assert "".join(page.text["title"]) == VISIBLE
    assert "".join(page.text["code"]).count(VISIBLE) == 2  # the reference answer and the command
    assert "".join(page.text["pre"]).count(VISIBLE) == 4  # a prompt and three completions
    assert all(VISIBLE in text for text in page.text["bdi"])
    html.encode("utf-8")


def test_hostile_text_stays_text_in_figures() -> None:
    page = Page(render([hostile()], title="t", command="c"))
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == 4 and all(VISIBLE in label for label in labels)
    drawn = page.text["text"]
    assert any("<script>" in text for text in drawn), "names are drawn as text"
    assert not any("\x1b" in text or "\x00" in text for text in drawn)


def test_same_scores_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report([pair(), pair(vision=2)], tmp_path / name, title="t", command="c")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_same_bytes_in_another_process_with_another_matplotlibrc(tmp_path: Path) -> None:
    settings = "font.size: 30\ntext.usetex: True\nxtick.direction: in\naxes.xmargin: 0.4\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    pair().save(tmp_path / "scores.json")
    program = (
        "from pathlib import Path\n"
        "from sparseopd.artifacts import Scores\n"
        "from sparseopd.report import write_report\n"
        "scores = Scores.load(Path('scores.json'))\n"
        "write_report([scores], Path('r.html'), title='a title', command='sparseopd demo')"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == rendered(pair())


def test_import_needs_no_torch_and_the_table_no_matplotlib() -> None:
    program = (
        "import sys, sparseopd.report as report\n"
        "report.scores_table; report.answer; report.mask_tables; assert 'matplotlib' not in sys.modules\n"
        "assert callable(report.answer) and callable(report.mask_tables)\n"
        "report.write_report; assert callable(report.answer); assert 'torch' not in sys.modules\n"
        "import matplotlib; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_page_shows_every_part_in_order() -> None:
    one = pair()
    html = rendered(one)
    page = Page(html)
    positions = [
        html.index(part)
        for part in (
            "kept 97",
            "<table>",
            "<figure>",
            "Sampled completions",
            ">Settings<",
            "sparseopd demo</code>",
            "What the figures mean",
        )
    ]
    assert positions == sorted(positions)
    assert page.tags["figure"] == 5 and page.tags["svg"] == 5
    for text in (
        "bundled:tiny-arithmetic/student",
        "torch 2.13.0",
        "runs/masked",
        "91.3",
        "41.2",
        "[91, 103]",
    ):
        assert text in page.all_text()


def test_one_section_an_evaluation() -> None:
    page = Page(rendered(pair(name="words"), pair(vision=2, name="pictures")))
    assert page.tags["section"] == 2 and page.tags["table"] == 2
    assert page.text["a"] == ["words", "pictures"]


PARTS_MISSING = {
    "one arm, nothing measured": scores(arm("a", "source")),
    "no arms": scores(),
    "no grader": scores(arm("s", "source", kl=interval(0.5)), arm("m", "masked", kl=interval(0.2))),
    "no full run": scores(arm("s", "source", 0.5), arm("m", "masked", 0.6, gain=interval(0.1))),
    "one step": scores(arm("m", "masked", 0.5, curve=[{"step": 1, "loss": 0.5}])),
    "no usable loss": scores(
        arm("m", "masked", 0.5, curve=[{"step": 1}, {"step": 2, "loss": None}])
    ),
    "zero loss": scores(
        arm("m", "full", 0.5, curve=[{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}])
    ),
    "no width": scores(arm("m", "full", 0.5, kl=Interval(0, 0, 0))),
    "only other": scores(
        arm("m", "masked", 0.5, layout=[{"layer": None, "module": "norm", "count": 0, "numel": 4}])
    ),
    "empty tensor": scores(
        arm("m", "masked", 0.5, layout=[{"layer": 0, "module": "x", "count": 0, "numel": 0}])
    ),
    "underscore": scores(arm("_hidden", "full", 0.5, curve=curve(1, 0.1))),
    "no name": scores(arm("", "masked", 0.5, curve=curve(1, 0.1), examples=[{}]), name=""),
}


@pytest.mark.parametrize("one", PARTS_MISSING.values(), ids=PARTS_MISSING.keys())
def test_what_is_missing_is_left_out(one: Scores) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page(rendered(one))
    text = page.all_text()
    assert not re.search(r"\b(nan|inf|None|undefined)\b", text, re.IGNORECASE)
    measured = any(arm.mean_tokens or arm.accuracy or arm.kl for arm in one.arms)
    assert page.tags["tr"] == (len(one.arms) + 1 if measured else 0) and page.open == []


def test_columns_nobody_fills_are_left_out() -> None:
    page = Page(rendered(scores(arm("s", "source", 0.5))))
    headings = page.text["th"]
    assert (
        "Accuracy" in headings and "KL to teacher" not in headings and "Gain kept" not in headings
    )


def test_long_completions_are_cut_and_say_so() -> None:
    example = {"prompt": "p", "completion": "x" * 5000, "answer": "", "correct": "False"}
    text = Page(rendered(scores(arm("s", "source", 0.5, examples=[example])))).all_text()
    assert "(3,500 more characters)" in text and "x" * 1501 not in text


def test_each_arm_shows_two_completions_of_four_prompts() -> None:
    many = [
        {"prompt": f"p{row % 6}", "completion": f"said {row}", "answer": "a", "correct": "False"}
        for row in range(30)
    ]
    page = Page(rendered(scores(*(arm("same", "masked", 0.5, examples=many) for _ in range(2)))))
    said = [text for text in page.text["pre"] if text.startswith("said")]
    assert page.tags["article"] == 4
    assert said == [f"said {row}" for start in range(4) for row in (start, start + 6) * 2]


def test_completions_stand_under_their_prompt() -> None:
    page = Page(rendered(pair()))
    assert page.tags["article"] == 2
    assert "".join(page.text["pre"]).count("900-321=") == 1
    assert page.all_text().count("✗ wrong") == 2 and page.all_text().count("✓ right") == 8


def test_a_report_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises((RunFolderError, OSError)):
        write_report([pair()], tmp_path / "missing" / "r.html", title="t", command="c")
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path / "r.html", title="t", command="c")


def test_report_survives_the_scores_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    pair().save(run.scores)
    assert rendered(Scores.load(run.scores)) == rendered(pair())
