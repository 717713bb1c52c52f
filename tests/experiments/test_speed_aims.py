"""The table of aims in speed, from records whose numbers are made up so that each aim is just reached."""

import pytest
from records.speed_aims import speed_aims_section

from snnkd_jax.errors import InputError


def entry(library, task, images_per_second, num_steps=4, **more):
    speed = {"median": images_per_second, "min": 0.0, "max": 1e9}
    return {"library": library, "task": task, "model": "m", "num_steps": num_steps, "images_per_second": speed} | more


@pytest.fixture
def records():
    """By hand: 9 of 10, 18 of 10, 95 of 100, 10 of 10, 30 of 10, 29.7 of 9, 125 of 100, 12 of 10, 15 of 10, 5 of 10."""
    few, many = ({"peak_bytes": b, "first_step_seconds": s} for b, s in ((10, 10.0), (12, 15.0)))
    return [
        {
            "name": "cpu-jax012",
            "entries": [
                entry("snnkd_jax", "train", 9.0, **few),
                entry("snnkd_jax", "rate", 18.0, **few),
                entry("snnkd_jax", "integer", 29.7),
                entry("snnkd_jax", "inference", 95.0),
                entry("slow", "train", 1.0),
                entry("fast", "train", 10.0),
                entry("fast", "integer", 1000.0),
                entry("fast", "inference", 100.0),
            ],
        },
        {
            "name": "time-steps-jax012",
            "entries": [
                entry("snnkd_jax", "train", 10.0, 16, **many),
                entry("snnkd_jax", "rate", 30.0, 16, **many),
                entry("fast", "train", 10.0, 16),
            ],
        },
        {
            "name": "profile",
            "entries": [
                {"task": kd + task, "model": model, "num_steps": 4, "untraced": untraced}
                for model in ("n", "m")
                for task in ("train", "rate", "integer")
                for kd, untraced in (("", 100.0), ("kd-", 125.0))
                if kd + task != "kd-train"
            ]
            + [{"task": "kd", "model": model, "num_steps": 4, "untraced": 125.0} for model in ("n", "m")],
        },
        {
            "name": "time-to-accuracy-integer",
            "dataset": "d",
            "target": 0.7,
            "config": {"student": "m"},
            "found": {
                "snnkd_jax, integer": {"seconds": [4.0, 6.0]},
                "SpikingJelly, compiled": {"seconds": [9.0, 11.0]},
            },
        },
    ]


def verdicts(records):
    found = [line.strip("|").split(" | ") for line in speed_aims_section(records).splitlines()[2:]]
    return {aim.strip(): (value, verdict.strip().strip("*")) for aim, value, verdict in found}


def missed_aims(records):
    return [aim for aim, (_, verdict) in verdicts(records).items() if verdict == "no"]


def test_each_aim_by_hand(records):
    beyond = "times as fast as the fastest other library"
    assert verdicts(records) == {
        f"exact step, m, T = 4: at least 0.9 {beyond}": ("0.90 (fast)", "yes"),
        f"rate-based step, m, T = 4: at least 1.8 {beyond}": ("1.80 (fast)", "yes"),
        f"inference, m, T = 4: at least 0.95 {beyond}": ("0.95 (fast)", "yes"),
        f"exact step, m, T = 16: at least 1 {beyond}": ("1.00 (fast)", "yes"),
        f"rate-based step, m, T = 16: at least 3 {beyond}": ("3.00 (fast)", "yes"),
        "integer step, m, T x D = 1 x 4: at least 3.3 times as fast as ours at T = 4": ("3.30", "yes"),
        **{
            f"{step}, {model}, with a teacher of its size: at most 1.25 of the time without": ("1.25", "yes")
            for step in ("exact step, T = 4", "rate-based step, T = 4", "integer step, T x D = 1 x 4")
            for model in ("n", "m")
        },
        "memory, rate-based, m: at T = 16 at most 1.2 of that at T = 4": ("1.20", "yes"),
        "first step, exact, m: at T = 16 at most 1.5 of that at T = 4": ("1.50", "yes"),
        "time to 70 % on d, m: integer neurons at most half of that of LIF neurons of SpikingJelly, compiled": (
            "0.50 (means of 2 and 2 seeds)",
            "yes",
        ),
    }


@pytest.mark.parametrize(
    ("record", "of", "missed"),
    [(0, 5, ("exact", "rate-based")), (0, 7, ("inference",)), (1, 2, ("exact", "rate-based"))],
    ids=["training at T = 4", "inference", "training at T = 16"],
)
def test_aims_are_missed_when_the_fastest_other_library_is_faster(records, record, of, missed):
    records[record]["entries"][of]["images_per_second"]["median"] *= 1.01
    assert tuple(aim.split(" step")[0].split(",")[0] for aim in missed_aims(records)) == missed


@pytest.mark.parametrize(("name", "entry"), [("peak_bytes", 1), ("first_step_seconds", 0)])
def test_aims_are_missed_when_more_time_steps_cost_more(records, name, entry):
    records[1]["entries"][entry][name] *= 1.01
    assert len(missed_aims(records)) == 1


def test_aims_are_missed_when_integer_steps_are_slower(records):
    records[0]["entries"][2]["images_per_second"]["median"] *= 0.99
    assert missed_aims(records) == ["integer step, m, T x D = 1 x 4: at least 3.3 times as fast as ours at T = 4"]


@pytest.mark.parametrize("step", ["rate-based", "integer"])
def test_aims_are_missed_when_a_teacher_costs_more(records, step):
    taught = [e for e in records[2]["entries"] if e["model"] == "n" and e["task"] == f"kd-{step.split('-')[0]}"]
    taught[0]["untraced"] *= 1.01
    assert [aim.split(", ")[0] for aim in missed_aims(records)] == [f"{step} step"]


def test_aims_are_missed_when_integer_neurons_take_longer_to_the_accuracy(records):
    records[3]["found"]["snnkd_jax, integer"]["seconds"][1] *= 1.01
    assert len(missed_aims(records)) == 1


def test_a_run_that_never_had_the_accuracy_is_a_miss(records):
    records[-1]["found"]["SpikingJelly, compiled"]["seconds"][0] = None
    assert verdicts(records).popitem()[1] == ("not reached by all runs", "no")


def test_a_record_that_is_missing_is_named(records):
    with pytest.raises(InputError, match="needs the record 'profile'"):
        speed_aims_section([record for record in records if record["name"] != "profile"])
