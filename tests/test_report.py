"""Report pages: nothing escapes, nothing is fetched, nothing is lost."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from anomaly.records import Region, Verdict
from anomaly.render import jpeg_bytes, png_bytes
from anomaly.report import data_uri, number, render_page, visible
from anomaly.report.charts import Line, heat_table, histogram, line_chart, round_ticks
from anomaly.report.inspection import GalleryItem, inspection_report
from anomaly.report.tally import MOST_ROWS, Tally

TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
VOID = {"meta", "img", "br", "hr", "input", "link"}
SUMMARY = {
    "threshold": 2.0,
    "ceiling": 6.0,
    "target_fpr": 0.05,
    "n_calibration": 4,
    "guarantee": "At most 5 % of normal photos score above the threshold.",
}
MODEL = {
    "name": "bottle <v3>",
    "fitted": "2025-06-01",
    "backbone": "efficientnet_lite0",
    "image_size": (320, 256),
    "augmentation_strength": 0.5,
    "embedding_size": 64,
    "versions": {"torch": "2.14.1"},
}
CALIBRATION = np.array([0.5, 1.0, 1.5, 1.75])
PHOTO = jpeg_bytes(np.full((8, 8, 3), 120, np.uint8))


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), its visible text, and whether every element is closed."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    def tags(self):
        return [tag for tag, _ in self.elements]


def verdict(path, score, regions=()):
    decision = (
        "error" if score is None else "anomalous" if score > 2 else "review" if score > 1.8 else "normal"
    )
    if score is None:
        return Verdict(path, decision, error="the file is empty: copy it again")
    p = (1 + int((score <= CALIBRATION).sum())) / 5
    return Verdict(path, decision, score, 2.0, p, regions)


def item(judged, **pictures):
    return GalleryItem(judged.path, judged, PHOTO, PHOTO, PHOTO, **pictures)


def report(verdicts, gallery=(), summary=SUMMARY, model=MODEL):
    return inspection_report(summary, Tally.of(verdicts), CALIBRATION, gallery, model)


def mixed():
    scores = {"a.png": 0.7, "b.png": 3.0, "c.png": None, "d.png": 1.9, "e.png": 5.5, "f.png": 1.2}
    return [verdict(f"line/{name}", score) for name, score in scores.items()]


def test_the_counts_and_the_headline_are_right():
    text = Page(report(mixed())).text
    assert "2 of 6 photos are anomalous, 1 is to be reviewed, 1 could not be read." in text
    assert "6 photos 2 normal 1 to review 2 anomalous 1 could not be read" in text


def test_photos_stand_worst_first_and_the_unread_have_their_cure():
    text = Page(report(mixed())).text
    listed = text[text.index("All photos photo") :]
    places = [listed.index(f"{name}.png") for name in "ebdcfa"]
    assert places == sorted(places)
    assert "c.png the file is empty: copy it again" in text
    assert "none of these may count as passed" in text


def test_a_gallery_item_tells_all():
    regions = tuple(Region((10 * k, 3, 10 * k + 5, 9), 1234, 4.0 - k / 10) for k in range(7))
    judged, next_best = verdict("line/e.png", 5.5, regions), verdict("line/b.png", 3.0)
    page = Page(report([next_best, judged], [item(next_best), item(judged, expected=PHOTO)]))
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == [
        *("photo", "heatmap", "outline", "expected by the model"),
        *("photo", "heatmap", "outline"),
    ]
    assert f"2.75 {TIMES} threshold" in page.text
    assert "Score 5.500, threshold 2.000." in page.text
    assert (
        "None of the 4 calibration photos scores this high: p = 0.2, the least that 4 can show." in page.text
    )
    assert f"rows 10{DASH}14, columns 3{DASH}8 · 1 234 px" in page.text
    assert "peak 3.900" in page.text and "and 2 more in verdicts.csv" in page.text
    assert "threshold 2" in page.text and "6 or more" in page.text


def test_the_p_value_is_put_in_words():
    one, some = verdict("a", 1.75), verdict("b", 0.6)
    text = Page(report([one, some], [item(one), item(some)])).text
    assert "1 of the 4 calibration photos, all normal, scores at least this high: p = 0.4." in text
    assert "3 of the 4 calibration photos, all normal, score at least this high: p = 0.8." in text


def test_threshold_guarantee_and_model_are_stated():
    text = Page(report(mixed())).text
    for fact in (
        "At most 5 % of normal photos score above the threshold.",
        "False alarms allowed for 5 %",
        "Name bottle <v3>",
        f"Image size 320 {TIMES} 256",
        "Augmentation strength 0.5",
        "Embedding size 64",
        "Versions torch 2.14.1",
    ):
        assert fact in text


HOSTILE = [
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "x' onmouseover='alert(1).png",
    "{{ 7 * 7 }}{% raw %}.png",
    "</style></title><svg onload=alert(1)>.png",
    "zerstört/很好 🙂.png",
    "&lt;b&gt;.png",
    "a\nb\u202egnp.exe\udcff.png",
    "back\\slash.png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_file_names_cannot_become_markup(name):
    def page(path):
        seen, unread = verdict(path, 3.0), Verdict(path, "error", error=f"{path} is empty: copy it again")
        html = report([seen, unread], [item(seen)], model={**MODEL, "name": path})
        html.encode("utf-8")
        return Page(html)

    hostile, plain = page(name), page("plain.png")
    assert hostile.elements == plain.elements
    shown = visible(name)
    cut = max(shown.rfind("/"), name.rfind("\\")) + 1
    assert hostile.text.count(shown[cut:]) >= 4
    assert "\u202e" not in hostile.text


def test_thousands_stand_apart_by_a_space_that_is_not_spelt_out():
    assert visible(number(12377.0)) == number(12377.0) == "12\u202f377"
    assert visible("a\u00a0b\u202eb") == "a\\xa0b\\u202eb"


def test_a_page_can_always_be_written():
    report(mixed(), summary={**SUMMARY, "finished": "folder \udcff"}).encode("utf-8")


def test_nothing_is_loaded_from_elsewhere():
    verdicts = mixed()
    html = report(verdicts, [item(v, expected=PHOTO) for v in verdicts if v.image_score])
    page = Page(html)
    links = [(k, v) for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href", "srcset")]
    assert links
    assert all(value.startswith(("data:image/", "#")) for _, value in links)
    assert "://" not in html and "url(" not in html and "@import" not in html
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.tags())
    assert any("default-src 'none'" in (a.get("content") or "") for tag, a in page.elements if tag == "meta")
    targets = {a["id"] for _, a in page.elements if "id" in a}
    assert {value[1:] for _, value in links if value.startswith("#")} <= targets


def test_no_anomaly_no_photo_and_no_readable_photo_still_make_a_page():
    fine = Page(report([verdict("a.png", 1.0)])).text
    assert "The photo is normal." in fine
    assert "All 2 photos are normal." in Page(report([verdict("a.png", 1.0), verdict("b.png", 0.5)])).text
    assert "No photo was found anomalous or set aside for review." in fine
    assert "No photos were inspected." in Page(report([])).text
    unread = Page(report([verdict("a.png", None), verdict("b.png", None)])).text
    assert "None of the photos could be read, so nothing was judged." in unread


def test_a_threshold_that_is_not_positive_has_no_multiples():
    judged = Verdict("a.png", "anomalous", 1.0, -2.0, 0.2)
    text = Page(report([judged], [item(judged)], {**SUMMARY, "threshold": -2.0})).text
    assert "Score 1.000, threshold -2.000." in text
    assert f"{TIMES} threshold Score" not in text and "-0.50" not in text


def test_ten_thousand_verdicts_stay_a_small_page():
    rng = np.random.default_rng(0)
    verdicts = [
        verdict(f"line/{'deep/' * 20}{k:05}.png", float(s)) for k, s in enumerate(rng.gamma(3, 0.5, 10_000))
    ]
    verdicts += [verdict(f"cut/{k:05}.png", None) for k in range(600)]
    html = report(verdicts)
    assert len(html) < 1_000_000
    assert html.count("<tr>") == 2 + 500 + 500
    text = Page(html).text
    assert "first 500 of 10 600; the rest is in verdicts.csv" in text
    assert "first 500 of 600; the rest is in verdicts.csv" in text


def test_a_strip_gets_wider_pictures():
    judged = verdict("a.png", 3.0)
    strip = jpeg_bytes(np.zeros((8, 40, 3), np.uint8))
    html = report([judged], [GalleryItem("a.png", judged, strip, strip, strip)])
    assert 'class="pictures wide"' in html
    assert 'class="pictures wide"' not in report([judged], [item(judged)])


def test_pictures_are_carried_in_the_page():
    assert data_uri(png_bytes(np.zeros((2, 2), np.uint8))).startswith("data:image/png;base64,iVBOR")
    assert data_uri(PHOTO).startswith("data:image/jpeg;base64,/9j/")


def test_numbers_are_short():
    given = [None, 3, 12345, 0.012345, 2.5, 999.96, 1234.5, np.float32(0.5), np.int64(7)]
    shown = [DASH, "3", "12\u202f345", "0.01235", "2.500", "1000", "1\u202f234", "0.5000", "7"]
    assert [number(value) for value in given] == shown


def test_the_shell_stands_alone():
    assert Page(render_page("page.html")).tags().count("main") == 1


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 7.9), (0.0013, 0.0092), (1e5, 3.1e6), (1.39, 3.2)])
@pytest.mark.parametrize("about", [4, 6])
def test_ticks_are_round_inside_and_few(low, high, about):
    ticks = round_ticks(low, high, about)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 2 * about
    assert low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    assert np.allclose(np.diff(ticks), step)
    lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(lead - round_lead) for round_lead in (1, 2, 5)) < 1e-6


def bars(chart, tone):
    """[(low, high, share)] as the bars' titles tell them."""
    pattern = rf'<rect class="{tone}"[^>]*><title>[^<]*: ([\d.e-]+) % between (\S+) and (\S+)</title>'
    return [(float(low), float(high), float(share)) for share, low, high in re.findall(pattern, str(chart))]


def test_histogram_shares_are_right_and_no_bar_stands_across_the_threshold():
    rng = np.random.default_rng(3)
    values = np.r_[rng.normal(1, 0.4, 300), 2.0, 2.0]
    other = rng.normal(3, 1, 50)
    chart = histogram(
        {"calibration": values, "inspected": other}, {"threshold": 2.0}, x_label="x", y_label="y"
    )
    Page(str(chart))
    for tone, given in (("s0", values), ("s1", other)):
        told = bars(chart, tone)
        assert sum(share for *_, share in told) == pytest.approx(100, abs=0.5)
        assert not [bar for bar in told if bar[0] < 2 - 1e-6 and bar[1] > 2 + 1e-6]
        above = sum(share for low, _, share in told if low >= 2 - 1e-6)
        assert above == pytest.approx(100 * (given > 2).mean(), abs=0.3)


def test_histogram_says_what_it_counts_in_the_last_bar():
    values = np.r_[np.linspace(0, 1, 90), np.full(10, 500.0)]
    chart = histogram({"a": values}, {}, x_label="x", y_label="y", upper=2.0)
    assert "Of these, 10 above 2 are counted in the last bar." in chart
    assert bars(chart, "s0")[-1][2] == pytest.approx(10)
    assert "last bar" not in histogram({"a": values}, {}, x_label="x", y_label="y")


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0], [1e-12, 2e-12], [-5.0, 1e9]])
def test_histogram_of_little(values):
    chart = histogram({"a": values}, {"t": 3.0}, x_label="x", y_label="y")
    assert "nan" not in str(chart)
    assert sum(share for *_, share in bars(chart, "s0")) == pytest.approx(100 if values else 0)


def test_chart_labels_are_escaped():
    bad = "<script>&"
    charts = [
        histogram({bad: [1, 2]}, {bad: 1.5}, x_label=bad, y_label=bad),
        line_chart([Line(bad, [0, 1], [0, 1])], x_label=bad, y_label=bad, marks={bad: 0.5}),
        heat_table([bad], [bad], [[1.0]], low=0, high=1, corner=bad),
    ]
    for chart in charts:
        page = Page(str(chart))
        assert "script" not in page.tags()
        assert page.text.count(bad) >= 3


def test_a_line_goes_through_its_points_and_its_band_lies_around():
    line = Line("pod", [0, 1, 4], [0.0, 0.5, 1.0], lower=[0, 0.25, 0.75], upper=[0.25, 0.75, 1])
    chart = str(line_chart([line], x_label="mm", y_label="pod", y_range=(0, 1)))
    assert 'class="line s1" d="M0,100 25,50 100,0"' in chart
    assert 'class="band s1" d="M0,75 25,25 100,0 100,25 25,75 0,100Z"' in chart


def test_a_heat_table_shades_between_its_limits():
    table = str(
        heat_table(["a", "b"], ["x", "y"], [[0.5, 0.75], [2.0, math.nan]], low=0.5, high=1.0, digits=2)
    )
    assert re.findall(r"--heat:([\d.]+)\">([\d.]+)", table) == [
        ("0.00", "0.50"),
        ("0.50", "0.75"),
        ("1.00", "2.00"),
    ]
    assert Page(table).text.split() == ["x", "y", "a", "0.50", "0.75", "b", "2.00", DASH]


def test_the_tally_lists_the_worst_whatever_the_order_and_forgets_the_rest():
    random = np.random.default_rng(0)
    all_of_them = [
        verdict(f"{i:05d}.png", None if i % 3 == 0 else float(random.normal())) for i in range(5000)
    ]
    tally = Tally.of(all_of_them)
    errors = [v for v in all_of_them if v.decision == "error"]
    rank = {"anomalous": 0, "review": 1, "error": 2, "normal": 3}
    expected = sorted(all_of_them, key=lambda v: (rank[v.decision], -(v.image_score or 0), v.path))
    assert tally.ranked == expected[:MOST_ROWS]
    assert tally.unread == errors[:MOST_ROWS]
    assert tally.total == 5000 and tally.counts["error"] == len(errors)
    assert tally.scores.tolist() == [v.image_score for v in all_of_them if v.image_score is not None]
    held = len(tally._ranked) + len(tally._unread)
    assert held <= 4 * MOST_ROWS
