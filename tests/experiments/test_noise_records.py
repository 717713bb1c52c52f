"""What a record of noise makes of its reports, by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from noise_reports import REPORTS, report_of
from records.noise import noise_section

from snnkd_jax.analysis.robustness import GROUPS, LEVELS
from snnkd_jax.report.noise import in_words, noise_table, summarise

ROOT = Path(__file__).parents[2]


def test_summary_over_seeds_by_hand():
    """Blur gains 0.06 and 0.08, deletion loses 0.1: the seeds' mean gains are -0.02 and -0.01."""
    found = summarise(REPORTS)
    blur = found["networks"]["student"]["kinds"]["blur"]
    assert blur["mean"]["values"] == [0.56, 0.60]
    assert blur["mean"]["std"] == pytest.approx(0.04 / 2**0.5)
    assert blur["accuracy"][0]["mean"] == pytest.approx(0.92)
    assert blur["drop"]["mean"] == pytest.approx(0.34)
    assert found["networks"]["teacher"]["kinds"]["spike_deletion"] is None
    assert found["comparison"]["better"] == ["blur"]
    assert found["comparison"]["kinds"] == ["blur", "spike_deletion"]
    assert found["comparison"]["gain"]["values"] == pytest.approx([-0.02, -0.01])
    assert found["comparison"]["clean_gain"]["mean"] == pytest.approx(0.02)
    assert summarise({"student": REPORTS["student"]})["comparison"] is None


def test_table_has_a_row_a_kind_and_the_gain():
    record = summarise(REPORTS)
    rows = noise_table(record).splitlines()
    assert rows[0] == "| noise | teacher | student without KD | student with KD | gain by KD |"
    assert rows[2:5] == [
        "| none | 95.00 ± 0.00 | 90.00 ± 0.00 | 92.00 ± 0.00 | +2.00 ± 0.00 |",
        "| blur | 60.00 ± 0.00 | 51.00 ± 1.41 | 58.00 ± 2.83 | +7.00 ± 1.00 |",
        "| spike deletion | – | 40.00 ± 0.00 | 30.00 ± 0.00 | -10.00 ± 0.00 |",
    ]
    assert rows[5].startswith("| **mean of the 10 on images** |")
    assert "| **mean of all 14** | – | 45.50 ± 0.71 |" in rows[6]
    assert in_words(record) == (
        "With KD the student is better in 1 of 2 kinds. Averaged over all of them it gains -1.50 ± 0.50 points, "
        "without noise +2.00 ± 0.00."
    )
    alone = noise_table(summarise({"student": REPORTS["student"][:1]}))
    assert alone.splitlines()[:3] == ["| noise | student with KD |", "| --- | --- |", "| none | 92.00 |"]
    assert noise_section([]) == ""


def test_kinds_that_students_were_trained_on_are_marked_and_the_others_have_a_mean():
    """Nine kinds gain 0.1, blur 0.4 and contrast, the other one that was trained on, 0.2."""
    kinds = dict.fromkeys(GROUPS["image"], 0.5)
    reports = {
        "student_baseline": [report_of(0.9, kinds)],
        "student": [report_of(0.9, dict.fromkeys(kinds, 0.6) | {"blur": 0.9, "contrast": 0.7})],
    }
    record = summarise(reports, ["contrast", "blur"])
    assert record["trained_on"] == ["contrast", "blur"]
    assert record["networks"]["student"]["mean"]["unseen"]["values"] == pytest.approx([0.6])
    assert record["comparison"]["unseen_gain"]["values"] == pytest.approx([0.1])
    assert record["comparison"]["gain"]["values"] == pytest.approx([(8 * 0.1 + 0.4 + 0.2) / 10])
    rows = noise_table(record).splitlines()
    marked = [row for row in rows if "(trained on)" in row]
    assert [row.split(" | ")[0] for row in marked] == ["| blur (trained on)", "| contrast (trained on)"]
    assert "| **mean of the 8 on images not trained on** | 50.00 | 60.00 | +10.00 |" in rows
    assert in_words(record) == (
        "The students were trained on noise (contrast, blur), which their teacher did not see. With KD the student is "
        "better in 10 of 10 kinds. Averaged over all of them it gains +14.00 points, over the 8 on images that it was "
        "not trained on +10.00, without noise +0.00."
    )
    plain = summarise(reports)
    assert "not trained on" not in noise_table(plain) + in_words(plain)
    some = summarise({role: [report_of(0.9, {"blur": 0.5})] for role in reports}, ["contrast"])
    assert some["networks"]["student"]["mean"]["unseen"] is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments/results/noise").glob("*.json")), ids=lambda path: path.stem
)
def test_committed_record_of_noise(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
    assert record["levels"] == {kind: list(strengths) for kind, strengths in LEVELS.items()}
    for role, network in record["networks"].items():
        for entry in filter(None, network["kinds"].values()):
            by_level = [level["values"] for level in entry["accuracy"]]
            assert entry["mean"]["values"] == pytest.approx(np.mean(by_level[1:], axis=0).tolist())
            assert entry["mean"]["mean"] == pytest.approx(np.mean(by_level[1:]))
            of_one = role == "teacher" and len(entry["mean"]["values"]) == 1  # one teacher for all seeds
            assert of_one or len(entry["mean"]["values"]) == len(record["seeds"])
