"""The report for people: what stands in it, whatever the data holds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from mlflow_exec.evaluation.findings import Finding, Severity, Skipped
from mlflow_exec.evaluation.report_html import as_html
from tests.unit.evaluation.reported import (
    Element,
    drawing,
    faulty,
    hostile,
    parsed,
    result_of,
)

NAN = float("nan")


def page_of(*findings: Finding, **fields: Any) -> Element:
    return parsed(as_html(result_of(findings, **fields)))


def test_a_finding_has_all_its_parts() -> None:
    result = faulty()
    cards = parsed(as_html(result)).all("article")
    [card] = [card for card, f in zip(cards, result.findings, strict=True)
              if f.slice and f.slice.conditions[0].column == "height"]  # fmt: skip
    [finding] = [f for f in result.findings if f.slice and "height" in str(f.slice)]
    assert finding.slice is not None
    assert card.all("span", "chip")[0].text == finding.severity.value
    assert re.match(r"accuracy is \d\d\.\d\u00a0% where height ≥ 1\d\d", card.all("h3")[0].text)
    assert [code.text for code in card.all("code")] == [str(finding.slice).replace(">=", "≥")]
    facts = {dt.text: dd.text for dt, dd in zip(card.all("dt"), card.all("dd"), strict=True)}
    assert facts["accuracy here"] == f"{100 * finding.figure:.1f} %"
    assert facts["elsewhere"] == f"{100 * (finding.compared_to or 0):.1f} %"
    assert facts["rows in the slice"].startswith(f"{finding.slice.size} (")
    effect = facts["difference and its 95 % interval"]
    assert re.match(r"\d\d\.\d points \(\d\d\.\d to \d\d\.\d\)", effect)
    assert "less than once in a million" in facts["chance"]
    assert len(card.all("svg")) >= 2
    assert card.all("rect", "hot")
    assert card.all("p", "advice")
    head, *rows = card.all("tr")
    assert [th.text for th in head.all("th")][:4] == ["row", "label", "prediction", "height"]
    assert [int(row.all("th")[0].text) for row in rows] == list(finding.examples)
    assert all(float(row.all("td", "hot")[0].text) > 175 for row in rows)


def test_the_worst_is_first_in_the_contents_and_in_detail() -> None:
    page = parsed(as_html(faulty()))
    worst_first = [finding.severity.value for finding in faulty().findings]
    assert worst_first == sorted(worst_first, key=[s.value for s in Severity].index)
    assert len(set(worst_first)) > 1
    assert [c.all("span", "chip")[0].text for c in page.all("article")] == worst_first
    contents = page.all("nav")[0]
    assert [chip.text for chip in contents.all("span", "chip")] == worst_first
    leads_to = [a.attributes["href"] for a in contents.all("a")]
    assert leads_to == [f"#{card.attributes['id']}" for card in page.all("article")]


def test_the_summary_tells_what_was_scanned_and_what_was_not() -> None:
    skipped = (
        Skipped("drift", "there is no second data set", True),
        Skipped("robustness", "the time of 600 s was over", False),
    )
    result = replace(faulty(), skipped=skipped, model="models:/churn/7", data="churn.parquet")
    page = parsed(as_html(result))
    [header] = page.all("header")
    assert "models:/churn/7" in header.text
    assert "major fault" in header.text
    tiles = [" ".join(tile.text.split()) for tile in page.all("li", "tile")]
    assert tiles[0].startswith(f"{result.count(Severity.MAJOR)} major")
    assert tiles[3].startswith("0 of 2 checks clean1 could not be done")
    [undone] = page.all("section", "undone")
    assert "robustness" in undone.text
    assert "the time of 600 s was over" in undone.text
    text = " ".join(page.text.split())
    assert "driftthere is no second data set" in text
    for told in ("churn.parquet", "3,000", "classification", "balanced accuracy", "Seed 0"):
        assert told in text
    for name, version in result.versions.items():
        assert f"{name} {version}" in text


def test_a_clean_model_is_told_to_be_clean() -> None:
    page = page_of()
    assert "Nothing was found." in page.all("header")[0].text
    assert not page.all("article")
    [table] = page.all("table")
    assert table.all("th")[3].text == "A check"
    unsure = page_of(skipped=(Skipped("drift", "it failed", False),))
    assert "Nothing was found, but 1 check could not be done." in unsure.all("header")[0].text


def test_what_comes_from_data_is_text_and_nothing_else() -> None:
    html = as_html(hostile())
    page = parsed(html)
    [script] = page.all("script")
    assert "scrollIntoView" in script.text
    assert {name for e in page.all() for name in e.attributes if name.startswith("on")} == set()
    assert len(page.all("article")) == 3
    html.encode()  # half a surrogate pair would not go
    assert "\x00" not in html
    assert "<script>alert('x')</script>" in page.all("h3")[0].text
    assert all(len(text) < 310 for e in page.all("h3") + page.all("code") + page.all("th")
               if (text := e.text))  # fmt: skip
    policy = page.all("meta")[2].attributes["content"] or ""
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(?:src|href)=\"(?!#)", html)


@pytest.mark.parametrize(("n_findings", "n_columns"), [(100, 12), (150, 60)])
def test_the_report_stays_small(n_findings: int, n_columns: int) -> None:
    html = as_html(hostile(n_findings, 10, n_columns))
    assert len(html.encode()) < 1_000_000
    assert len(parsed(html).all("article")) == min(n_findings, 100)


def test_bars_stand_for_their_values() -> None:
    page = page_of(drawing("bars", ["a", "b", "c"], [1], errors=(0.1, 0.4, NAN)))
    figure = page.all("figure")[0]
    widths = [float(r.attributes["width"] or 0) for r in figure.all("svg")[0].all("rect", "bar")]
    assert widths[1] == pytest.approx(4 * widths[0], abs=0.3)
    assert len(widths) == 2
    assert "no rows" in figure.text
    assert [r.attributes["class"] for r in figure.all("rect")][:2] == ["bar s0", "bar hot"]
    told = figure.all("desc")[0].text
    assert "errors: lowest 0.1 at a, highest 0.4 at b; of this finding: b" in told


def test_a_line_has_gaps_where_nothing_is_known_and_a_name_for_each_series() -> None:
    series = {"model": (1.0, NAN, 2.0, 3.0), "ideal": (1.0, 2.0, 3.0, 4.0)}
    page = page_of(drawing("line", [1, 2, 3, 4], [3], **series))
    figure = page.all("figure")[0]
    curves = [path.attributes["d"] or "" for path in figure.all("path", "curve")][:2]
    assert [curve.count("M") for curve in curves] == [2, 1]
    assert [" ".join(s.text.split()) for s in figure.all("span")] == [
        "of this finding", "model", "ideal", "for comparison: 0.3"]  # fmt: skip
    assert len(figure.all("svg")[0].all("circle")) == 2


def test_points_are_thinned_but_for_those_of_the_finding() -> None:
    xs = [n / 7 for n in range(5_000)]
    page = page_of(drawing("scatter", xs, range(3), rows=xs))
    [cloud] = page.all("path", "cloud")
    assert 200 <= (cloud.attributes["d"] or "").count("M") <= 400
    assert len(page.all("svg")[0].all("circle")) == 3


ODD: dict[str, tuple[list[Any], tuple[float, ...]]] = {
    "nothing": ([], ()),
    "only gaps": ([1, 2], (NAN, NAN)),
    "one point": ([1.0], (5.0,)),
    "all the same": ([3, 3, 3], (0, 0, 0)),
    "texts": (["Mon", "Tue", "Wed"], (1, 2, 3)),
    "no places": ([NAN, NAN], (1, 2)),
    "huge": ([1, 2], (1.7e308, -1.7e308)),
    "tiny": ([1, 2], (5e-324, 0.0)),
    "far from zero": ([1, 2], (1e15, 1e15 + 1)),
    "many": (list(map(str, range(3_000))), tuple(range(3_000))),
}


@pytest.mark.parametrize("kind", ["bars", "line", "scatter"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_plots_are_drawn_or_left_out(kind: str, odd: str) -> None:
    x, y = ODD[odd]
    page = page_of(drawing(kind, x, [0, 7_000], y=y))
    drawn = page.all("figure")
    assert bool(drawn) == (odd not in ("nothing", "only gaps", "no places", "huge")
                           or (odd, kind) == ("no places", "bars"))  # fmt: skip
    for element in (e for figure in drawn for e in figure.all()):
        assert "nan" not in str(element.attributes.values())
