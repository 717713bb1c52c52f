"""Records: what a claim rests on, one JSON file a claim, and the tables that are made of them.

A record has `name`, `command` (that of the first seed), `dataset`, `seeds`, `metrics` (each with `values` in the order
of the seeds, `mean` and `std`, the sample standard deviation, None for one seed), `config`, `versions`, `hardware`,
`commit`, `date` and `notes`.

A record of speed, in a folder of its own, is what `experiments/benchmark.py` writes: instead of `metrics`, it has
`entries`, one for each library, task, model and T, with every sample.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import read_sealed
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, over_seeds, percent
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, config_of
from snnkd_jax.runs.models import number_of_steps, teacher_label
from snnkd_jax.runs.recipe import BOOKKEEPING, DISTILLATION, OBJECTIVE, SEED, differences
from snnkd_jax.runs.roles import NETWORKS

ORIGIN = ("versions", "hardware", "commit")
"""What the results of runs have of their provenance."""


def check_same(runs: list[Path], results: list[dict[str, Any]], fields: tuple[str, ...]) -> None:
    """Raises `InputError` if the results of runs differ in one of the fields, but for the seed."""
    for field in fields:
        values = [_without_seed(result[field]) for result in results]
        if any(value != values[0] for value in values):
            raise InputError(f"runs {', '.join(map(str, runs))} differ in {field}; a record needs the same")


def make_record(name: str, runs: list[Path], dataset: str, notes: str = "") -> dict[str, Any]:
    """Combines finished runs that differ in their seed only.

    Args:
        name: of the record and its file.
        runs: run directories, one a seed.
        dataset: what the data are, in words, such as "CIFAR-10 (JPEG copy)".
        notes: what else a reader should know.

    Raises:
        InputError: if a run is not finished, or the runs are not of one configuration and version.
    """
    results = []
    for run in runs:
        if not (run / "result.json").is_file():
            raise InputError(f"run {run} has no result.json: it is not finished")
        results.append(read_sealed(run / "result.json"))
    if any(result["test_accuracy"]["student"] is None for result in results):
        raise InputError(f"runs {', '.join(map(str, runs))}: a teacher alone makes no record; name runs with a student")
    results.sort(key=lambda result: result["config"]["seed"])
    seeds = [result["config"]["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"runs {', '.join(map(str, runs))} repeat a seed: {seeds}")
    check_same(runs, results, ("config", *ORIGIN))
    first = results[0]
    metrics = {}
    for network in NETWORKS:
        if first["test_accuracy"][network] is None:
            continue
        metrics[f"{network}/test_accuracy"] = [r["test_accuracy"][network] for r in results]
        metrics[f"{network}/parameters"] = [r["parameters"][network] for r in results]
        if first["firing_rate"][network] is not None:
            metrics[f"{network}/firing_rate"] = [r["firing_rate"][network] for r in results]
            for t in range(len(first["test_accuracy_by_step"][network])):
                by_step = [r["test_accuracy_by_step"][network][t] for r in results]
                metrics[f"{network}/test_accuracy_at_{t + 1}"] = by_step
    metrics["seconds"] = [r["seconds"] for r in results]
    return {
        "name": name,
        "command": command(config_of(first["config"], f"the run {runs[0]}")),
        "dataset": dataset,
        "seeds": seeds,
        "metrics": {key: over_seeds(values) for key, values in metrics.items()},
        "config": _without_seed(first["config"] | {"teacher": teacher_label(first["config"]["teacher"])}),
        "versions": first["versions"],
        "hardware": first["hardware"],
        "commit": first["commit"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "notes": notes,
    }


def tables(records: list[dict[str, Any]]) -> str:
    """The results page: a row for each record, and below it the commands."""
    what = ("data", "student", "preset", "T", "epochs", "backprop", "seeds")
    columns = (*what, "teacher", "student without KD", "with the preset", "gain")
    rows = []
    for record in records:
        config = record["config"]
        without = without_kd(record, records)
        rows.append(
            [
                record["dataset"],
                f"{config['student']}, width {config['width']:g} ({_millions(record)})",
                _config(record).method,
                steps_of(record),
                config["epochs"],
                _backprop(config),
                len(record["seeds"]),
                _teacher(record),
                "–" if without is None else percent(without),
                *student_and_gain(record, records),
            ]
        )
    terms = (
        "Test accuracy in % after the last epoch, mean ± standard deviation over seeds. The gain is in points, "
        "the mean of the differences between networks of one seed ± its standard error. Where the student is "
        "initialised from its teacher, the gain includes that; `the loss` is the gain over the same initialisation "
        "without distillation.\n"
    )
    commands = []
    for record in records:
        minutes = record["metrics"]["seconds"]["mean"] / 60
        seeds = ", ".join(map(str, record["seeds"]))
        machine = f"{record['hardware']}, jax {record['versions']['jax']}"
        commands.append(
            f"- [{record['name']}](../experiments/results/{record['name']}.json): `{record['command']}`; "
            f"seeds {seeds}, {minutes:.1f} min each on {machine}. {record['notes']}".rstrip()
        )
    return "\n".join([markdown_table(columns, rows), terms, folded(commands)])


def steps_of(record: dict[str, Any]) -> str:
    """T of the students of a record, or T x D with integer neurons."""
    config = _config(record)
    return number_of_steps(config.student.num_steps, config.neuron.spikes_per_step)


def folded(commands: list[str]) -> str:
    """A list in Markdown behind one line that a reader opens: commands are long, and a table is read first."""
    summary = "<summary>Reproduce a row: commands, seeds, machine</summary>"
    return "\n".join(['<details markdown="1">', summary, "", *commands, "", "</details>", ""])


def _teacher(record: dict[str, Any]) -> str:
    """Which it was, and its accuracy."""
    if "teacher/test_accuracy" not in record["metrics"]:
        return "–"
    config = record["config"]
    width = config["width"] if config["teacher_width"] is None else config["teacher_width"]
    return f"{config['teacher']}, width {width:g}: {teacher_of(record)}"


def teacher_of(record: dict[str, Any]) -> str:
    """The teacher's accuracy; without a deviation if one teacher taught the students of all seeds."""
    metric = record["metrics"]["teacher/test_accuracy"]
    return percent(metric["values"] if metric["std"] else metric["values"][:1])


def _backprop(config: dict[str, Any]) -> str:
    """How the student was differentiated; records older than the choice are of backpropagation through time."""
    backprop, finish = config.get("backprop", "bptt"), config.get("bptt_epochs", 0)
    return f"{backprop}, last {finish} of {config['epochs']} epochs bptt" if finish else backprop


def _config(record: dict[str, Any]) -> Config:
    return config_of(record["config"], f"the record {record['name']!r}")


def without_kd(record: dict[str, Any], records: list[dict[str, Any]]) -> list[float] | None:
    """The accuracies of the same student without KD: the record's own, or another one's."""
    if "student_baseline/test_accuracy" in record["metrics"]:
        return record["metrics"]["student_baseline/test_accuracy"]["values"]
    return _by_cross_entropy(record, records, "random", DISTILLATION)


def _by_cross_entropy(
    record: dict[str, Any], records: list[dict[str, Any]], initial_weights: str, may_differ: tuple[str, ...]
) -> list[float] | None:
    """The accuracies of the same student, on the same data, by cross-entropy alone from those initial weights."""
    for other in records:
        config = _config(other)
        same = not differences(_config(record), config, (*SEED, *BOOKKEEPING, *may_differ))
        same_runs = (other["dataset"], other["seeds"]) == (record["dataset"], record["seeds"])
        begun_alike = config.student.initial_weights == initial_weights
        if config.objective.is_cross_entropy and begun_alike and same and same_runs:
            return other["metrics"]["student/test_accuracy"]["values"]
    return None


def student_and_gain(record: dict[str, Any], records: list[dict[str, Any]]) -> tuple[str, str]:
    """Accuracy and gain of the student; of one that is initialised from its teacher, what the loss alone gives."""
    config, values = _config(record), record["metrics"]["student/test_accuracy"]["values"]
    if config.is_plain:
        return "–", "–"
    gains = []
    if (without := without_kd(record, records)) is not None:
        gains.append(gain(values, without))
    begun = _by_cross_entropy(record, records, "teacher", OBJECTIVE)
    if begun is not None and not config.objective.is_cross_entropy:
        gains.append(f"the loss: {gain(values, begun)}")
    return percent(values), "; ".join(gains) or "–"


def with_sections(page: str, sections: dict[str, str]) -> str:
    """The page with the text between the two markers of each section, `<!-- name: ... -->`, replaced."""
    for name, text in sections.items():
        begin = f"<!-- {name}: written by experiments/make_tables.py -->\n"
        end = f"<!-- end of {name} -->\n"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise InputError(f"the page lacks the lines {begin.strip()!r} and {end.strip()!r}")
        page = before + begin + "\n" + text + "\n" + end + after
    return page


def read_records(directory: Path) -> list[dict[str, Any]]:
    """All records in a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def _without_seed(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in SEED} if isinstance(value, dict) else value


def _millions(record: dict[str, Any]) -> str:
    n = record["metrics"]["student/parameters"]["mean"]
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n / 1e3:.1f} k"
