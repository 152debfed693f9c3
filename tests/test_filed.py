"""A filed report: every part is there, nothing escapes, the JSON beside it is valid."""

import json
import math
import re

import numpy as np
import pytest
from test_report import PHOTO, Page

from anomaly.errors import DataError
from anomaly.report.charts import Line, Points, heat_table, line_chart, log_ticks
from anomaly.report.filed import FiledReport, Pictures, Section, Table, claim_folder, file_report, filed_page

BAD = "<script>\u202e&\n"


def filed(**parts):
    given = {
        "title": "Probability of detection",
        "subject": "bottle",
        "answer": "Found from 2 mm.",
        "asked": ["Which size is found?", {"command": "anomaly pod"}],
        "data": [Table(["type", "n#", "mean#", "used"], [["hole", 12, 0.51234, True], [None, 0, None, ""]])],
        "method": ["By maximum likelihood."],
        "result": [Section("hole", [Pictures("a.png", [("photo", PHOTO), ("heatmap", PHOTO)], "score 2")])],
        "limits": ["It holds for these photos."],
    }  # fmt: skip
    return FiledReport(**(given | parts))


def test_all_parts_stand_in_the_order_in_which_they_are_read():
    page = Page(filed_page(filed(warnings=["Few photos."], cards=[{"value": "2 mm", "label": "a90"}])))
    words = [
        *("Probability of detection", "bottle", "Found from 2 mm.", "2 mm a90", "Few photos."),
        *("What was asked", "Which size", "Command anomaly pod", "Data", "Method", "Result: hole"),
        *("a.png", "score 2", "Limits", "Signatures", "name role date signature", "Prepared", "Approved"),
    ]
    places = [page.text.index(word) for word in words]
    assert places == sorted(places)
    assert "hole 12 0.5123 yes" in page.text and "\N{EN DASH} 0 \N{EN DASH}" in page.text
    assert "Checked by" not in page.text
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == ["photo", "heatmap"]


def test_hostile_names_stay_text_and_nothing_is_fetched():
    html = filed_page(
        filed(
            title=BAD, subject=BAD, answer=BAD, asked=[BAD, {BAD: BAD}], method=[BAD], limits=[BAD],
            warnings=[BAD],
            data=[Table([BAD, BAD + "#"], [[BAD, 1.0]], BAD)],
            result=[Section(BAD, [Pictures(BAD, [(BAD, PHOTO)], BAD)])],
        )
    )  # fmt: skip
    page = Page(html)
    assert "script" not in page.tags() and "\u202e" not in html
    assert page.text.count("<script>") >= 15
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "url(" not in html


def test_a_chart_among_the_blocks_is_drawn():
    chart = line_chart([Line("pod", [1, 2], [0, 1])], x_label="mm", y_label="pod")
    assert "svg" in Page(filed_page(filed(result=[Section("all", [chart])]))).tags()


def test_figures_are_written_beside_the_page_and_an_earlier_report_is_kept(tmp_path):
    out = tmp_path / "deep" / "out"
    claim_folder(out)
    figures = {"a50": 1.5, "upper": math.inf, "pair": (1, math.nan), "deep": {"x": [math.inf]}, BAD: BAD}
    page = file_report(out, filed(), figures)
    assert page.read_text("utf-8").startswith("<!doctype html>")
    told = json.loads((out / "result.json").read_text("utf-8"))
    assert told == {"a50": 1.5, "upper": None, "pair": [1, None], "deep": {"x": [None]}, BAD: BAD}
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json"]
    with pytest.raises(DataError, match=r"already holds report\.html: give another --out, or --overwrite"):
        claim_folder(out)
    claim_folder(out, overwrite=True)
    with pytest.raises(DataError, match="give another --out"):
        claim_folder(page)


@pytest.mark.parametrize("low, high", [(1, 100), (0.3, 0.9), (2, 7000), (1e-6, 1e9), (3.1, 3.2)])
def test_log_ticks_are_inside_rising_and_few(low, high):
    ticks = log_ticks(low, high, 6)
    assert 2 <= len(ticks) <= 12
    assert low <= ticks[0] and ticks[-1] <= high
    assert (np.diff(ticks) > 0).all()


def test_on_a_log_axis_equal_ratios_are_equally_far_apart():
    line = Line("pod", [1, 10, 100], [0.0, 0.5, 1.0])
    dots = [Points("pod", [10], [1]), Points("missed", [100], [0])]
    chart = str(line_chart([line], x_label="mm", y_label="y", points=dots, log_x=True))
    assert 'd="M0,100 50,50 100,0"' in chart
    assert re.findall(r'<circle class="(s\d)" cx="([\d.]+)%" cy="(\d+)%"', chart) == [
        ("s1", "50.0", "0"),
        ("s2", "100.0", "100"),
    ]
    assert Page(chart).text.count("missed") == 2 and "nan" not in chart
    alone = str(line_chart([], x_label="mm", y_label="y", points=[Points("a", [4], [1])], log_x=True))
    assert alone.count("<circle") == 1


def test_a_heat_table_has_a_key_if_the_value_is_named():
    table = heat_table(["size 2"], ["contrast 4"], [[0.5]], low=0, high=1, digits=1, legend="found <b>")
    assert "found <b> 0.0 or less 1.0 or more" in Page(str(table)).text
    assert "0.50" in heat_table(["a"], ["b"], [[0.5]], low=0.5, high=0.5, digits=2)
