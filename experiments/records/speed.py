"""The tables of the speed page, from the records in `experiments/results/speed/`.

| kind         | written by                                                                       |
| ------------ | -------------------------------------------------------------------------------- |
| `benchmark`  | `experiments/benchmark.py`: steps per second of this library and of others       |
| `profile`    | `experiments/benchmark.py --profile-ops`: where the time of a step goes          |
| `time`       | `experiments/time_to_accuracy.py`: whole trainings, to an accuracy               |
| `early-exit` | `experiments/early_exit.py`: a student that stops when it is sure                |
| `gradients`  | `experiments/gradient_agreement.py`: rate-based gradients beside exact ones      |
"""

from typing import Any

from peers.workload import steps_and_levels

from records.trainings import folded
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import mean_and_std, percent
from snnkd_jax.runs.models import number_of_steps, time_steps

SPEED_COLUMNS = ("train", "train with KD", "inference")
SPEED_ROWS = {
    "": ("train", "kd", "inference"),
    ", rate-based": ("rate", "kd-rate", None),
    ", integer": ("integer", "kd-integer", None),
}
"""What is added to a library's name for a kind of training, to the task of each column: through time, through rates,
and of integer neurons in a single step."""


def speed_section(records: list[dict[str, Any]]) -> str:
    """The tables of all kinds of records."""
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in _WRITERS}
    parts = []
    for kind, (title, write) in _WRITERS.items():
        if by_kind[kind]:
            parts += [f"## {title}\n", *([_FIGURE] if kind == "benchmark" else []), write(by_kind[kind])]
    return "\n".join(parts)


def benchmark_tables(records: list[dict[str, Any]]) -> str:
    """For each record a row a network, T and library, and below it the command."""
    parts = []
    for record in records:
        heading = ("network", "T", "library", *SPEED_COLUMNS, "memory, GB", "first step, s", "of peak")
        rows = []
        for (model, num_steps, library, kind), tasks in sorted(_by_row(record).items(), key=lambda item: item[0][:2]):
            first = next(iter(tasks.values()))
            names = SPEED_ROWS[kind]
            columns = [_images_per_second(tasks.get(name or "")) for name in names]
            steps = number_of_steps(*steps_and_levels(names[0], num_steps))
            row = [f"{model}, batch {first['batch_size']}", steps, f"{library}{kind}", *columns]
            rows.append([*row, *_costs(tasks.get(names[0]))])
        flags = "".join(f" {name}: {', '.join(flags)}." for name, flags in record.get("flags", {}).items())
        settings = record["settings"]
        memory = "what the process needed beyond its imports, compiler included"
        if settings.get("device") == "gpu":
            memory = "the most that was allocated on the device"
        peak = max((m["flops_per_second"] for m in record["matmul"]), default=0.0) / 1e9
        source = (
            f"[{record['name']}](../experiments/results/speed/{record['name']}.json): `{record['command']}`; "
            f"images/s, median (least to greatest) over {_rounds(record)} interleaved rounds, "
            f"{settings['threads']} threads, width {settings['width']:g}, {settings.get('dtype', 'float32')}, on "
            f"{record['hardware']}, whose matrix product reaches {peak:.0f} GFLOP/s. Memory ({memory}), first step "
            f"and share of that peak are those of training. {_versions(record)}.{flags}{_failures(record)} "
            f"{record['notes']}".rstrip()
        )
        parts.append(f"{markdown_table(heading, rows)}\n{source}\n")
    return "\n".join(parts)


_SPEED_VERSIONS = ("snnkd-jax", "jax", "torch", "spikingjelly", "snntorch", "norse", "spyx")


def _versions(record: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in record["versions"].items() if k in _SPEED_VERSIONS)


def _failures(record: dict[str, Any]) -> str:
    """A sentence for each entry that failed, or for which there was no time."""
    failed = "".join(f" {f['library']} failed at {f['task']} of {f['model']}, {_steps(f)}." for f in record["failed"])
    return failed + "".join(
        f" No time was left for {e['library']}, {e['task']}, {e['model']}, {_steps(e)}."
        for e in record.get("left_out", ())
    )


def _steps(entry: dict[str, Any]) -> str:
    return time_steps(*steps_and_levels(entry["task"], entry["num_steps"]))


def _by_row(record: dict[str, Any]) -> dict[tuple[str, int, str, str], dict[str, Any]]:
    """(model, T, library, kind of training) to the entries of its tasks, in the order of the record."""
    rows: dict[tuple[str, int, str, str], dict[str, Any]] = {}
    kinds = {task: kind for kind, tasks in SPEED_ROWS.items() for task in tasks if task is not None}
    libraries, order = list(record["settings"]["libraries"]), list(SPEED_ROWS)
    for e in sorted(record["entries"], key=lambda e: (libraries.index(e["library"]), order.index(kinds[e["task"]]))):
        rows.setdefault((e["model"], e["num_steps"], e["library"], kinds[e["task"]]), {})[e["task"]] = e
    return rows


def _images_per_second(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    speed = entry["images_per_second"]
    return f"{speed['median']:.3g} ({speed['min']:.3g}–{speed['max']:.3g})"


def _costs(entry: dict[str, Any] | None) -> list[str]:
    """Memory in GB, seconds of the first step, share of the machine's peak."""
    if entry is None:
        return ["–", "–", "–"]
    share = "–" if entry["utilisation"] is None else f"{100 * entry['utilisation']:.0f} %"
    return [f"{entry['peak_bytes'] / 1e9:.2f}", f"{entry['first_step_seconds']:.1f}", share]


def _rounds(record: dict[str, Any]) -> str:
    """How many turns the entries had: slow ones have fewer."""
    counts = sorted({len(entry["rounds"]) for entry in record["entries"]})
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"


def profile_tables(records: list[dict[str, Any]]) -> str:
    """For each record a table per model, with a row for each task and T, and below them the command."""
    parts = []
    for record in records:
        for model in dict.fromkeys(e["model"] for e in record["entries"]):
            entries = [e for e in record["entries"] if e["model"] == model]
            classes = [name for name in entries[0]["milliseconds"] if any(e["milliseconds"][name] for e in entries)]
            rows = []
            for e in entries:
                times = [*(e["milliseconds"][name] for name in classes), e["idle"]]
                shares = [f"{ms:.3g} ({100 * ms / e['step']:.0f} %)" if ms else "–" for ms in times]
                steps = number_of_steps(*steps_and_levels(e["task"], e["num_steps"]))
                rows.append([e["task"], steps, *shares, f"{e['step']:.3g}", f"{e['untraced']:.3g}"])
            title = f"{model}, batch {entries[0]['batch_size']}"
            heading = (title, "T", *classes, "idle", "step", "step, untraced")
            parts.append(markdown_table(heading, rows))
        settings = record["settings"]
        source = (
            f"[{record['name']}](../experiments/results/speed/{record['name']}.json): `{record['command']}`; "
            f"milliseconds of a traced step (and its share), {settings['threads']} threads, width "
            f"{settings['width']:g}, {settings.get('dtype', 'float32')}, on {record['hardware']}. {_versions(record)}."
            f"{_failures(record)} {record['notes']}"
        )
        parts.append(f"{source.rstrip()}\n")
    return "\n".join(parts)


def time_tables(records: list[dict[str, Any]]) -> str:
    """For each record a row for each library, the time to a validation accuracy, and below it the commands."""
    heading = ("data, network", "T", "trained by", "seeds", "seconds to it", "epochs", "s an epoch", "test")
    parts = []
    for record in records:
        config, steps = record["config"], record.get("time_steps", {})
        rows = []
        for name, found in record["found"].items():
            rows.append(
                [
                    f"{record['dataset']}, {config['student']}, width {config['width']:g}",
                    steps.get(name) or config["num_steps"],
                    name,
                    len(record["seeds"][name]),
                    *(_of_those(found[key], digits) for key, digits in (("seconds", 0), ("epochs", 1), ("epoch", 1))),
                    percent(record["test_accuracy"][name]),
                ]
            )
        seconds = "of the first epoch, and for each further one the median of all others"
        if "sums" in record:
            seconds = "sums of the epochs as they were, by an earlier version of the script"
        # SpikingJelly is compiled by now; eager, it ran by the script as it was.
        then = f" (of commit {record['commit'][:7]})" if "SpikingJelly" in record["found"] else ""
        runs = "; ".join(f"{name}, `{command}`" for name, command in record["run_commands"].items())
        parts.append(
            f"{markdown_table(heading, rows)}\n"
            f"[{record['name']}](../experiments/results/speed/{record['name']}.json): to a validation accuracy of "
            f"{100 * record['target']:g} %; seconds {seconds}; test accuracy in % after the last epoch; on "
            f"{record['hardware']}, jax {record['versions']['jax']}, {record['date']}. {record['notes']}".rstrip()
            + "\n\n"
            + folded([f"- `{record['command']}`{then}, RUN of {runs}"])
        )
    return "\n".join(parts)


def _of_those(values: list[float | None], digits: int) -> str:
    """Mean and spread over the runs that have the value, and how many these are where some have not."""
    known = [value for value in values if value is not None]
    if not known:
        return "not reached"
    return mean_and_std(known, digits) + ("" if len(known) == len(values) else f" ({len(known)} of {len(values)})")


def early_exit_table(records: list[dict[str, Any]]) -> str:
    """A row for each record: a student at its full number of steps and with early exit."""
    if not records:
        return ""
    accuracies, speeds = ("test accuracy at T", "early exit"), ("images/s at T", "early exit")
    heading = ("student", "T", *accuracies, "mean steps", *speeds, "ratio")
    rows = []
    for r in records:
        config, accuracy, speed = r["config"], r["accuracy"], r["images_per_second"]
        rows.append(
            [
                f"{r['dataset']}, {config['student']}, width {config['width']:g}, {config['preset']}",
                r["num_steps"],
                *(f"{100 * accuracy[k]:.2f}" for k in ("full", "early")),
                f"{r['mean_steps']['test']:.2f}",
                *(f"{speed[k]:.0f}" for k in ("full", "early")),
                f"{r['speed_up']:.2f}",
            ]
        )
    commands = []
    for r in records:
        lowest = "there is no threshold" if r["threshold"] is None else "the threshold is the lowest"
        commands.append(
            f"- [{r['name']}](../experiments/results/speed/{r['name']}.json): `{r['command']}`, RUN of "
            f"`{r['run_command']}`; {lowest} that loses at most {100 * r['tolerance']:g} points on "
            f"the validation split; batches of {r['batch_size']}, in turns, on {r['hardware']}."
        )
    return f"{markdown_table(heading, rows)}\n{folded(commands)}"


def gradient_table(records: list[dict[str, Any]]) -> str:
    """A row for each record: how far rate-based gradients point the way of the exact ones."""
    if not records:
        return ""
    cosine = ("cosine, all weights", "least and greatest of a layer")
    heading = ("student", "T", "weights", *cosine, "norm, rate to exact")
    rows = []
    for r in records:
        config, layers = r["config"], r["layers"]
        cosines = [layer["cosine"] for name, layer in layers.items() if name != "all"]
        rows.append(
            [
                f"{config['student']}, width {config['width']:g}",
                config["num_steps"],
                "trained" if r["trained"] else "fresh",
                f"{layers['all']['cosine']:.2f}",
                f"{min(cosines):.2f}, {max(cosines):.2f}",
                f"{layers['all']['norm_ratio']:.2f}",
            ]
        )
    commands = []
    for r in records:
        run = f", RUN of `{r['run_command']}`" if r["trained"] else ""
        commands.append(
            f"- [{r['name']}](../experiments/results/speed/{r['name']}.json): `{r['command']}`{run}; gradients of the "
            f"cross-entropy on one batch of {r['config']['dataset']}."
        )
    return f"{markdown_table(heading, rows)}\n{folded(commands)}"


_FIGURE = "![Images per second in training, one bar per library.](figures/speed.svg)\n"
_WRITERS = {
    "benchmark": ("Images per second", benchmark_tables),
    "profile": ("Milliseconds by class of op", profile_tables),
    "time": ("Time to accuracy", time_tables),
    "early-exit": ("Early exit", early_exit_table),
    "gradients": ("Rate-based gradients", gradient_table),
}
