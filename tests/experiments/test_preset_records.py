"""Tables of presets: gains seed by seed, the best first."""

import json
from pathlib import Path

import pytest
from presets import RECIPE, RESULTS, finished, student
from records.presets import loss_section, preset_table, presets_section

from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed

NONE, RECIPES, OTHER = [0.90, 0.94, 0.95], [0.91, 0.96, 0.98], [0.93, 0.97, 0.98]
RATES = [0.2, 0.2, 0.2]


def test_losses_are_compared_with_none_the_best_first():
    """Gains of 1, 2 and 3 points for the recipe, of 3, 3 and 3 for the other."""
    losses = [
        {"group": "loss", "recipe": "temporal", "value": v, "accuracy": a} for v, a in (("none", NONE), ("dist", OTHER))
    ]
    entries = [e | {"firing_rate": RATES} for e in ({"accuracy": RECIPES}, *losses)]
    (path,) = (RESULTS.parent / "knobs").glob("*.json")
    rows = loss_section([json.loads(path.read_text()) | {"entries": entries}]).splitlines()
    assert rows[2:5] == [
        "| `dist` | 3 | 96.00 ± 2.65 | +3.00 ± 0.00 | 0.200 ± 0.000 |",
        "| `temporal` | 3 | 95.00 ± 3.61 | +2.00 ± 0.58 | 0.200 ± 0.000 |",
        "| `none` | 3 | 93.00 ± 2.65 | – | 0.200 ± 0.000 |",
    ]


def test_gains_are_between_students_of_one_seed():
    """With seed 1 alone, the gain is over that of seed 1; seeds that `none` lacks have none."""
    students = {
        "none": {"seeds": [0, 1], "accuracy": [0.5, 0.75], "firing_rate": RATES[:2]},
        "dist": {"seeds": [1], "accuracy": [0.5], "firing_rate": [0.25]},
        "tet": {"seeds": [2], "accuracy": [0.25], "firing_rate": [0.25]},
    }
    assert preset_table(students).splitlines()[2:] == [
        "| `none` | 2 | 62.50 ± 17.68 | – | 0.200 ± 0.000 |",
        "| `dist` | 1 | 50.00 | -25.00 | 0.250 |",
        "| `tet` | 1 | 25.00 | – | 0.250 |",
    ]


def test_students_differ_in_preset_and_seed_alone(tmp_path):
    configs = [student(tmp_path, preset, seed).flat() for preset in PRESETS for seed in (0, 1)]
    changed = {name for config in configs for name in config if config[name] != RECIPE.flat()[name]}
    assert changed == {"preset", "seed", "run_dir", "teacher_checkpoint"}
    with pytest.raises(InputError, match=r"(?s)nonesuch.*temporal"):
        student(tmp_path, "nonesuch", 0)
    assert finished(tmp_path, "dist") == {}


def test_finished_students_are_found_by_preset_and_seed(tmp_path):
    for preset, seed in (("kdsnn", 10), ("kdsnn", 9), ("kdsnn-response", 0)):
        config = student(tmp_path, preset, seed)
        directory = Path(config.run.run_dir or "")
        directory.mkdir()
        write_sealed(directory / "config.json", {"config": config.flat()})
        (directory / "result.json").touch()
    (tmp_path / "kdsnn-8").mkdir()  # not finished
    assert list(finished(tmp_path, "kdsnn").items()) == [(s, tmp_path / f"kdsnn-{s}") for s in (9, 10)]
    (tmp_path / "kdsnn-10").rename(tmp_path / "dist-0")
    with pytest.raises(InputError, match="differ in preset"):
        finished(tmp_path, "dist")


def test_records_have_every_preset():
    paths = list(RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text())
        entries = {entry["preset"]: entry for entry in record["entries"]}
        assert set(entries) == set(PRESETS)
        for entry in entries.values():
            assert len(entry["seeds"]) == len(entry["test_accuracy"]) == len(entry["validation_accuracy"])
        assert presets_section([record]).count("| `") == len(entries)
