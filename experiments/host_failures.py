"""Fault injection: hosts of a run fail on purpose, and the resumed run must give the same result.

    python experiments/host_failures.py --record loopback    # seventeen minutes on two busy CPU cores

Hosts are processes of this machine connected through the loopback address, with two CPU devices each, and train on the
digits. They are killed, interrupted, run out of disk, and are resumed on other numbers of hosts and devices; the final
weights are compared with those of an undisturbed run. Every signal is sent to a real process.
"""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.record import write_record
from snnkd_jax.training.manifest import read_manifest

RESULTS = Path(__file__).parent / "results" / "hosts"
SCRIPT = Path(__file__).parent / "cifar_distill.py"
TINY = ["--dataset", "digits", "--width", "0.1", "--teacher-width", "0.1", "--num-steps", "2", "--no-baseline"]

# 40 steps of the teacher, then 240 of the student, 20 per epoch.
LONG = [*TINY, "--preset", "kdsnn", "--teacher-epochs", "2", "--epochs", "12", "--checkpoint-every", "7"]

# 50 steps, 10 per epoch.
FIFTY = [
    *TINY,
    "--width",
    "0.25",
    "--preset",
    "none",
    "--batch-size",
    "128",
    "--epochs",
    "5",
    "--learning-rate",
    "0.01",
]

# Timeouts in seconds: for a host to end after a signal or the loss of another host, and for a whole run.
PROMPT, WHOLE = 30, 600


class Host(NamedTuple):
    """A training process, and the file of its output."""

    process: subprocess.Popen
    log: Path

    def output(self) -> str:
        """The output so far, stdout and stderr."""
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        """Waits until the text is printed; raises `InputError` if the process ends before."""
        while text not in self.output():
            if self.process.poll() is not None:
                raise InputError(f"a host ended without printing {text!r}: {self.output()[-500:]}")
            time.sleep(0.02)


def start(
    run_dir: Path, arguments: list[str], hosts: int = 2, devices: int = 2, others: Sequence[str] = ()
) -> list[Host]:
    """Starts the hosts of a run; `others` are further arguments for all but the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    started = []
    for i in range(hosts):
        # jax 0.10 needs as many threads as there are collectives in flight, more than it has with two cores.
        environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "NPROC": "16"}
        if hosts > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(hosts),
                "JAX_PROCESS_ID": str(i),
            }
        log = run_dir.parent / f"{run_dir.name}-{i}.log"
        with log.open("w") as file:
            command = [sys.executable, str(SCRIPT), *arguments, *(others if i else ()), "--run-dir", str(run_dir)]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)
        started.append(Host(process, log))
    return started


def ends(hosts: list[Host], timeout: float = WHOLE) -> list[int]:
    """The exit statuses after all hosts have ended; those that exceed the timeout are killed, with status -9."""
    deadline = time.monotonic() + timeout
    for host in hosts:
        try:
            host.process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            host.process.kill()
            host.process.wait()
    return [host.process.returncode for host in hosts]


def finish(run_dir: Path, arguments: list[str], hosts: int = 2, devices: int = 2) -> str:
    """Runs to the end and returns the output of the first host; raises `InputError` if a host fails."""
    started = start(run_dir, arguments, hosts, devices)
    statuses = ends(started)
    if any(statuses):
        raise InputError(f"hosts ended with {statuses}: {' '.join(host.output()[-500:] for host in started)}")
    return started[0].output()


def steps_of(run_dir: Path, phase: str) -> list[int]:
    """The steps of the checkpoints, in order."""
    return sorted(int(path.name) for path in (run_dir / phase).glob("*") if path.name.isdigit())


def arrays(run_dir: Path, phase: str = "student", step: int | None = None) -> list[np.ndarray]:
    """All arrays of a checkpoint, of the last one if no step is given, read by Orbax itself."""
    leaves = []
    for part in ("network", "training"):
        path = run_dir / phase / str(steps_of(run_dir, phase)[-1] if step is None else step) / part
        with ocp.StandardCheckpointer() as reader, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about reading without a sharding
            saved = reader.metadata(path.absolute()).item_metadata.tree
            target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), saved)
            leaves += jax.tree.leaves(reader.restore(path.absolute(), target))
    return [np.asarray(x) for x in leaves]


def difference(run_dir: Path, expected: Path, phase: str = "student") -> float:
    """The largest |a - b| / |b| over the arrays of the last checkpoint, in L2 norm; 0 only if all are bit-identical."""
    pairs = list(zip(arrays(run_dir, phase), arrays(expected, phase), strict=True))
    if all(np.array_equal(a, b) for a, b in pairs):
        return 0.0
    return max(float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30)) for a, b in pairs)


def logged(run_dir: Path) -> list[dict[str, Any]]:
    """The log without the times."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{n: x for n, x in line.items() if n not in ("images_per_second", "seconds")} for line in lines]


def message(host: Host) -> str:
    """The line of a host's output with the reason for its end."""
    lines = [line for line in host.output().splitlines() if "error: " in line or "Terminating process" in line]
    return lines[-1][:300] if lines else ""


def resumed_at(output: str) -> int | None:
    """The step at which the student's training was resumed, from the output of the first host."""
    _, found, rest = output.partition("student: resumed at step ")
    return int(rest.split()[0]) if found else None


def newest(run_dir: Path) -> list[int]:
    """The steps of the newest checkpoints of teacher and student; -1 if there is none."""
    return [max(steps_of(run_dir, phase), default=-1) for phase in ("teacher", "student")]


def lose_one(run_dir: Path, rng: random.Random) -> dict[str, Any]:
    """Kills one of two hosts at a random time after a checkpoint; returns which, and how the other ended."""
    before = newest(run_dir)
    hosts = start(run_dir, LONG)
    while newest(run_dir) == before and hosts[0].process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.8))
    killed = rng.randrange(2)
    hosts[killed].process.send_signal(signal.SIGKILL)
    since = time.monotonic()
    statuses = ends(hosts, PROMPT)
    return {
        "killed": killed,
        "newest_checkpoints": newest(run_dir),
        "survivor_status": statuses[1 - killed],
        "survivor_seconds": round(time.monotonic() - since, 1),
        "survivor_message": message(hosts[1 - killed]),
    }


def tell_one(run_dir: Path, told: int = 1, number: int = signal.SIGTERM) -> dict[str, Any]:
    """Sends a signal to one of two hosts during the student's training; returns how both ended."""
    hosts = start(run_dir, LONG)
    hosts[0].wait_for("student: epoch 3/")
    hosts[told].process.send_signal(number)
    since = time.monotonic()
    statuses = ends(hosts, PROMPT)
    seconds = time.monotonic() - since
    _, found, rest = hosts[0].output().partition("student: stopped at step ")
    return {
        "statuses": statuses,
        "seconds": round(seconds, 1),
        "stopped_at": int(rest.split()[0]) if found else None,
        "newest_checkpoint": steps_of(run_dir, "student")[-1],
    }


def cut_back(run_dir: Path, target: Path, step: int) -> None:
    """Copies a finished run in its state when the student's checkpoint of that step was the newest."""
    shutil.copytree(run_dir, target)
    (target / "result.json").unlink()
    manifest = read_manifest(target / "student")
    assert manifest is not None
    later = [found for found in manifest.steps if found > step]
    dataclasses.replace(manifest.without(later), network=None).write(target / "student")
    for found in later:
        shutil.rmtree(target / "student" / str(found))


def fill_disk(run_dir: Path) -> dict[str, Any]:
    """Trains on a small file system that fills up and is then freed again; needs permission to mount."""
    run_dir.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(run_dir)], check=True)
    hosts = start(run_dir, LONG)
    hosts[0].wait_for("student: epoch 2/")
    with contextlib.suppress(OSError), (run_dir / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    statuses = ends(hosts, 2 * PROMPT)
    messages = [message(host) for host in hosts]
    saved = steps_of(run_dir, "student")[-1]
    (run_dir / "ballast").unlink()
    output = finish(run_dir, LONG)
    shutil.copytree(run_dir, run_dir.with_name(f"{run_dir.name}-copy"))  # the mount ends with this process
    return {"statuses": statuses, "messages": messages, "newest_checkpoint": saved, "resumed_at": resumed_at(output)}


def in_own_mounts(run_dir: Path) -> dict[str, Any]:
    """`fill_disk` in a process with its own mount namespace; leaves a copy of the run behind."""
    command = ["unshare", "-rm", sys.executable, __file__, "--disk", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(kills: int = 10, seed: int = 0, record: str | None = None, disk: Path | None = None) -> None:
    """Make hosts of a run fail, and check that the resumed run gives the same result.

    Args:
        kills: Number of times that a host is killed.
        seed: Random seed of the times and hosts.
        record: Write experiments/results/hosts/<record>.json.
        disk: Only run the test of a full disk, mounted at this path.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    if disk is not None:
        print(json.dumps(fill_disk(disk)))
        return
    rng = random.Random(seed)
    found: dict[str, Any] = {"seed": seed, "hosts": 2, "devices_a_host": 2}

    def tell(name: str, value: Any) -> None:
        text = json.dumps(value).replace(f"{runs}/", "")
        found[name] = json.loads(text)
        print(f"{name}: {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        finish(runs / "one", FIFTY, hosts=1, devices=1)
        finish(runs / "two", FIFTY)
        tell("fifty_steps_difference_from_one_device", difference(runs / "two", runs / "one"))
        finish(runs / "whole", LONG)
        tell("kills", [lose_one(runs / "killed", rng) for _ in range(kills)])
        finish(runs / "killed", LONG)
        tell("difference_after_kills", difference(runs / "killed", runs / "whole"))
        told = tell_one(runs / "told")
        told["resumed_at"] = resumed_at(finish(runs / "told", LONG))
        tell("sigterm_to_one", told)
        tell("difference_after_sigterm", difference(runs / "told", runs / "whole"))
        tell("full_disk", in_own_mounts(runs / "disk"))
        tell("difference_after_full_disk", difference(runs / "disk-copy", runs / "whole"))
        differences = {}
        for hosts, devices in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2)):
            run_dir = runs / f"{hosts}x{devices}"
            cut_back(runs / "whole", run_dir, steps_of(runs / "whole", "student")[-2])
            finish(run_dir, LONG, hosts, devices)
            differences[f"{hosts} x {devices}"] = difference(run_dir, runs / "whole")
        tell("difference_after_resuming_on_hosts_x_devices", differences)
    if file is not None:
        write_record(file, "hosts", found)


if __name__ == "__main__":
    sys.exit(call(main))
