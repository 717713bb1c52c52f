"""Reads a run directory, of a finished or unfinished run."""

import dataclasses
from pathlib import Path
from typing import Any

from snnkd_jax.analysis.observation import Observation, load_observation
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json, read_sealed
from snnkd_jax.runs.config import Config, config_of
from snnkd_jax.runs.models import number_of_steps, teacher_label
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.result import read_result
from snnkd_jax.runs.roles import NETWORKS, title_of
from snnkd_jax.training.manifest import read_manifest
from snnkd_jax.training.metrics import read_log


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a configuration, or of `fit`; missing parts are None or empty.

    `started` is config.json, `config` the configuration in it (None for `fit`), `result` result.json, `epochs` the
    entries of metrics.jsonl by network, `noise` and `energy` the results of `snnkd noise` and `snnkd energy`.
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
        """The name of the directory."""
        return self.path.resolve().name

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run by name."""
        return self.started["fit"] if self.config is None else self.config.flat()

    @property
    def versions(self) -> dict[str, Any]:
        """Versions by package."""
        return versions if isinstance(versions := self.started.get("versions"), dict) else {}

    @property
    def is_plain(self) -> bool:
        """Whether the student is trained without distillation."""
        return self.options["teacher"] is None if self.config is None else self.config.is_plain

    @property
    def introduction(self) -> str:
        """A sentence on what was trained."""
        options = self.options
        if (config := self.config) is None:
            trained = fit_title(options)
            trained += "" if options["teacher"] is None else f", taught by {options['teacher']}"
        elif config.teacher.teacher_only:
            trained = f"An ANN, {config.teacher.teacher} of width {config.teacher_width:g}"
        else:
            size = f"width {options['width']:g}, {config.time_steps}"
            trained = f"A spiking {options['student']} of {size}, preset {config.method}"
        return f"{trained}, on {options['dataset']}, seed {options['seed']}."

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the networks by role."""
        return NETWORKS | ({"student": NETWORKS["student_baseline"]} if self.is_plain else {})

    def accuracies(self) -> dict[str, float]:
        """Test accuracy of each network that the result has."""
        by_role = {} if self.result is None else self.result["test_accuracy"]
        return {role: by_role[role] for role in NETWORKS if by_role.get(role) is not None}


def read_run(path: Path) -> Run:
    """Reads a run directory; raises `InputError` if it is not one, or a file in it is damaged."""
    started = read_sealed(path / "config.json") if (path / "config.json").is_file() else {}
    config = None if isinstance(started.get("fit"), dict) else read_config(path)
    observation, student = path / "student" / "observation.npz", read_manifest(path / "student")
    epochs: dict[str, list[dict[str, Any]]] = {role: [] for role in NETWORKS}
    for entry in read_log(path):
        if entry["phase"] in epochs and isinstance(entry.get("validation", {}), dict):
            epochs[entry["phase"]].append(entry)
    return Run(
        path,
        config,
        started,
        _result(path),
        epochs,
        load_observation(observation) if observation.is_file() else None,
        tuple(student.network["class_names"]) if student is not None and student.network is not None else (),
        _optional(path / "noise.json", "networks", "comparison", "images"),
        _optional(path / "energy.json", "networks", "dataset", "config", "name", "mac_pj", "ac_pj"),
    )


def _optional(path: Path, *needed: str) -> dict[str, Any] | None:
    content = read_json(path) if path.is_file() else None
    if content is not None and not content.keys() >= set(needed):
        raise InputError(f"{path} is damaged, it lacks {', '.join(set(needed) - content.keys())}; delete it")
    return content


def _result(path: Path) -> dict[str, Any] | None:
    if (result := read_result(path)) is None:
        return None
    of_networks = dict.fromkeys(("test_accuracy", "test_accuracy_by_step", "firing_rate", "parameters"), NETWORKS)
    started = {"fit": ("network",)} if "fit" in result else {"config": ("teacher", "student", "preset", "num_steps")}
    for name, needed in (of_networks | started).items():
        if not isinstance(found := result.get(name), dict) or not found.keys() >= set(needed):
            raise InputError(f"{path / 'result.json'} is not the result of a run ({name!r} is missing or incomplete)")
    return result


def fit_title(fitted: dict[str, Any]) -> str:
    """The title of a network trained by `fit`, from its options in config.json."""
    network = fitted["network"]
    return network["title"] if "title" in network else f"{network['model']}, width {network['width']:g}"


def result_rows(result: dict[str, Any]) -> list[list[str]]:
    """The comparison of the networks of a finished run: a heading, and a row per trained network."""
    if "fit" in result:
        network = result["fit"]["network"]
        num_steps = network["num_steps"] if "title" in network else (network["spiking"] or {}).get("num_steps")
        levels = (network.get("spiking") or {}).get("levels", 1)
        titles = dict.fromkeys(NETWORKS, fit_title(result["fit"]))
    else:
        config, num_steps = result["config"], result["config"]["num_steps"]
        levels = config_of(config, "the result").neuron.spikes_per_step
        titles = {
            "teacher": f"teacher ({teacher_label(config['teacher'])})",
            "student_baseline": f"student without KD ({config['student']})",
            "student": f"{title_of(config_of(config, 'the result'), 'student')} ({config['student']})",
        }
    rows = [["network", "T", "parameters", "firing rate", "test accuracy"]]
    for name, title in titles.items():
        if (accuracy := result["test_accuracy"][name]) is not None:
            rate = "-" if result["firing_rate"][name] is None else f"{result['firing_rate'][name]:.3f}"
            steps = "-" if name == "teacher" or num_steps is None else number_of_steps(num_steps, levels)
            rows.append([title, steps, f"{result['parameters'][name]:,}", rate, f"{100 * accuracy:.2f} %"])
    return rows
