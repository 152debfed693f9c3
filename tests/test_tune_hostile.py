"""anomaly tune on photos and options that make little sense: an answer or a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from planted import planted, rows_of
from test_commands import run

CASES = {
    "one class, normal": rows_of(np.linspace(0, 1, 70).tolist(), []),
    "one class, anomalous": rows_of([], np.linspace(0, 1, 70).tolist()),
    "ties": rows_of([1.0, 1.0, 2.0, 2.0] * 20, [2.0, 2.0, 3.0] * 20),
    "constant scores": rows_of([5.0] * 70, [5.0] * 70),
    "three photos": rows_of([1.0, 2.0], [3.0]),
    "swapped labels": rows_of(np.linspace(5, 6, 70).tolist(), np.linspace(0, 1, 70).tolist()),
    "a group with one photo": [
        *rows_of(np.linspace(0, 1, 70).tolist(), [4.0] * 9, "a"),
        (9.0, "anomalous", "b"),
    ],
    "huge and tiny": rows_of([1e-300, -1e30] * 35, [1e30] * 9),
}
COST = ("--escape-cost", "200", "--overkill-cost", "1", "--defect-rate", "0.2%")
WISHES = (
    ("--max-overkill", "5%", "--by-group"),
    ("--zero-escapes", *COST),
    ("--max-overkill", "5%", "--max-escape", "5%", "--review-share", "3%", "--observed"),
)


@pytest.mark.parametrize("case", CASES)
def test_hostile_photos_get_an_answer_or_a_sentence(
    case: str, capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    data = planted(own_model, tmp_path / "d", CASES[case])
    good = np.array([score for score, label, _ in CASES[case] if label == "normal"])
    for wish in WISHES:
        code, stdout, stderr = run(capfd, "tune", "--model", own_model, data, *wish, "--dry-run", "--json")
        assert "Traceback" not in stderr
        if code:
            assert code in (2, 3, 5) and stderr.count("anomaly: ") == 1, stderr
            continue
        told = json.loads(stdout)
        point = told["chosen"]["cross_fitted"] or told["chosen"]["optimistic"]
        if "--max-overkill" in wish and good.size:
            assert (good > point["threshold"]).mean() <= 0.05
        if "--zero-escapes" in wish:
            assert told["chosen"]["optimistic"]["escapes"] == 0
        if "--observed" in wish:
            assert "nothing is promised" in told["promise"]
        if case == "swapped labels":
            assert any("check whether labels are swapped" in sentence for sentence in told["limits"])
        if case == "constant scores":
            assert any("no threshold tells these photos apart" in sentence for sentence in told["limits"])


def test_wrong_labels_are_pointed_out(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    rows = rows_of([*np.linspace(0, 1, 40), 50.0], [*np.linspace(30, 40, 20), 0.1])
    data = planted(own_model, tmp_path / "d", rows)
    told = json.loads(
        run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run", "--json")[1]
    )
    assert Path(told["suspects"]["normal_with_highest_scores"][0]).name == "40.png"
    assert Path(told["suspects"]["anomalous_with_lowest_scores"][0]).name == "61.png"
    text = data.read_text()
    shutil.copy(data.parent / "0.png", data.parent / "same.png")
    data.write_text(text + "same.png,test,normal,\n")
    copied = json.loads(
        run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run", "--json")[1]
    )
    assert copied["data"]["duplicates"] == 1 and copied["chosen"] == told["chosen"]
    data.write_text(text + "same.png,test,bad,\n")
    code, _, stderr = run(capfd, "tune", "--model", own_model, data, "--max-overkill", "20%", "--dry-run")
    assert code == 3 and "the same photo with different labels" in stderr


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--max-overkill", "5%"), 2, "give --why"),
        (("--dry-run",), 2, "needs a wish"),
        (("--dry-run", "--max-overkill", "1"), 2, "a share is such as 1% or 0.01"),
        (("--dry-run", "--max-overkill", "0%"), 2, "a share is such as 1% or 0.01"),
        (("--dry-run", "--max-escape", "many"), 2, "got 'many'"),
        (("--dry-run", "--max-escape", "nan"), 2, "got 'nan'"),
        (("--dry-run", "--max-escape", "1%%"), 2, "got '1%%'"),
        (
            ("--dry-run", "--escape-cost", "3"),
            2,
            "need all of --escape-cost, --overkill-cost and --defect-rate",
        ),
        (
            ("--dry-run", "--escape-cost", "0", "--overkill-cost", "1", "--defect-rate", "1%"),
            2,
            "escape_cost must",
        ),
        (
            ("--dry-run", "--escape-cost", "1", "--overkill-cost", "-1", "--defect-rate", "1%"),
            2,
            "overkill_cost must",
        ),
        (("--dry-run", "--max-overkill", "5%", "--rules", "absent.yaml"), 2, "cannot read"),
    ],
)
def test_options_that_make_no_sense_are_told_so(
    options: tuple[str, ...], code: int, sentence: str, capfd: pytest.CaptureFixture[str], model: Path
) -> None:
    found, _, stderr = run(capfd, "tune", "--model", model, *options)
    assert found == code and sentence in stderr and stderr.count("\n") == 1


def test_help_names_the_command_as_it_is_typed(capfd: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = run(capfd, "tune", "--help")
    assert code == 0 and "anomaly tune [OPTIONS] [labelled]" in stdout and "choose [" not in stdout
    code, stdout, stderr = run(capfd, "tune", "--nope")
    assert code == 2 and "anomaly tune --help" in stderr
    assert "anomaly tune plan [OPTIONS]" in run(capfd, "tune", "plan", "--help")[1]
