"""What a run directory holds of a run, finished or not, for those who read it."""

import dataclasses
from pathlib import Path
from typing import Any

from snnkd_jax.analysis.observation import Observation, load_observation
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, config_of
from snnkd_jax.runs.models import teacher_label
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.roles import NETWORKS, title_of
from snnkd_jax.training.metrics import read_log


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a configuration, or a training by `fit`; what it lacks is None or empty.

    `started` is its config.json, `config` the configuration in it, None of a training by `fit`, `result` its
    result.json, `epochs` has the entries of metrics.jsonl by network, and `noise` and `energy` are what `snnkd noise`
    and `snnkd energy` found.
    """

    path: Path
    config: Config | None
    started: dict[str, Any]
    result: dict[str, Any] | None
    epochs: dict[str, list[dict[str, Any]]]
    observation: Observation | None
    classes: tuple[str, ...]
    noise: dict[str, Any] | None
    energy: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.path.resolve().name

    @property
    def options(self) -> dict[str, Any]:
        """What the run was started with, by name."""
        return self.started["fit"] if self.config is None else self.config.flat()

    @property
    def is_plain(self) -> bool:
        """Whether the student has nothing to learn from but the labels."""
        return self.options["teacher"] is None if self.config is None else self.config.is_plain

    @property
    def introduction(self) -> str:
        """What was trained, in words."""
        options = self.options
        if (config := self.config) is None:
            trained = fit_title(options)
            trained += "" if options["teacher"] is None else f", taught by {options['teacher']}"
        elif config.teacher.teacher_only:
            trained = f"An ANN, {config.teacher.teacher} of width {config.teacher_width:g}"
        else:
            trained = f"A spiking {options['student']} of width {options['width']:g}, T = {options['num_steps']}"
            trained += f", preset {config.method}"
        return f"{trained}, on {options['dataset']}, seed {options['seed']}."

    @property
    def command(self) -> str:
        """The command that makes the run, or the call."""
        return "snnkd_jax.fit(...)" if self.config is None else command(self.config)

    @property
    def titles(self) -> dict[str, str]:
        """The networks in words; a student without distillation is called so."""
        return NETWORKS | ({"student": NETWORKS["student_baseline"]} if self.is_plain else {})

    def accuracies(self) -> dict[str, float]:
        """Test accuracy of each network that the result has."""
        found = {} if self.result is None else self.result["test_accuracy"]
        return {role: found[role] for role in NETWORKS if found.get(role) is not None}


def read_run(path: Path) -> Run:
    """Reads a run directory; raises `InputError` if it is none, or a file in it is damaged."""
    started = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    config = None if isinstance(started.get("fit"), dict) else read_config(path)
    observation, description = path / "student" / "observation.npz", path / "student" / "network.json"
    epochs: dict[str, list[dict[str, Any]]] = {role: [] for role in NETWORKS}
    for entry in read_log(path):
        if entry["phase"] in epochs and isinstance(entry.get("validation"), dict):
            epochs[entry["phase"]].append(entry)
    return Run(
        path,
        config,
        started,
        _result(path / "result.json"),
        epochs,
        load_observation(observation) if observation.is_file() else None,
        tuple(map(str, read_json(description).get("class_names", ()))) if description.is_file() else (),
        _optional(path / "noise.json", "networks", "comparison", "images"),
        _optional(path / "energy.json", "networks", "dataset", "config", "name", "mac_pj", "ac_pj"),
    )


def _optional(path: Path, *needed: str) -> dict[str, Any] | None:
    content = read_json(path) if path.is_file() else None
    if content is not None and not content.keys() >= set(needed):
        raise InputError(f"{path} is damaged, it lacks {', '.join(set(needed) - content.keys())}; delete it")
    return content


def _result(path: Path) -> dict[str, Any] | None:
    if (result := _optional(path)) is None:
        return None
    of_networks = dict.fromkeys(("test_accuracy", "test_accuracy_by_step", "firing_rate", "parameters"), NETWORKS)
    started = {"fit": ("network",)} if "fit" in result else {"config": ("teacher", "student", "preset", "num_steps")}
    for name, needed in (of_networks | started).items():
        if not isinstance(found := result.get(name), dict) or not found.keys() >= set(needed):
            raise InputError(f"{path} is not the result of a run ({name!r} is missing or incomplete)")
    return result


def fit_title(fitted: dict[str, Any]) -> str:
    """The network of a training by `fit`, of the options that config.json has of it."""
    network = fitted["network"]
    return network["title"] if "title" in network else f"{network['model']}, width {network['width']:g}"


def result_rows(result: dict[str, Any]) -> list[list[str]]:
    """The comparison of a finished run: a heading, and a row for each network that was trained."""
    if "fit" in result:
        network = result["fit"]["network"]
        num_steps = network["num_steps"] if "title" in network else (network["spiking"] or {}).get("num_steps")
        titles = dict.fromkeys(NETWORKS, fit_title(result["fit"]))
    else:
        config = result["config"]
        num_steps = config["num_steps"]
        titles = {
            "teacher": f"teacher ({teacher_label(config['teacher'])})",
            "student_baseline": f"student without KD ({config['student']})",
            "student": f"{title_of(config_of(config, 'the result'), 'student')} ({config['student']})",
        }
    rows = [["network", "T", "parameters", "firing rate", "test accuracy"]]
    for name, title in titles.items():
        if (accuracy := result["test_accuracy"][name]) is not None:
            rate = "-" if result["firing_rate"][name] is None else f"{result['firing_rate'][name]:.3f}"
            steps = "-" if name == "teacher" else str(num_steps or "-")
            rows.append([title, steps, f"{result['parameters'][name]:,}", rate, f"{100 * accuracy:.2f} %"])
    return rows
