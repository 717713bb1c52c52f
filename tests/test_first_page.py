"""The documentation's first page, run as a user's script: killed, resumed to identical bits, reported, loaded."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "index.md"
PYTHON = os.environ.get("SNNKD_PYTHON", sys.executable)  # of an environment with the wheel alone, in CI


def script() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def start(folder: Path) -> subprocess.Popen:
    """The script in a process and a folder of its own, where nothing but the installed package is found."""
    (folder / "page.py").write_text(script())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.Popen(
        [PYTHON, "-W", "error::UserWarning", "page.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )


def epochs(folder: Path) -> list[dict]:
    path = folder / "runs" / "student" / "metrics.jsonl"
    timed = ("seconds", "images_per_second", "averaged_steps")
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_the_script_is_short_and_does_all_seven():
    lines = [line for line in script().splitlines() if line]
    assert len(lines) <= 60
    for joint in ("from_arrays", "nn.Module", "kd.Term", "def step(", "optax", "augment=", "callbacks="):
        assert joint in script()


@pytest.mark.slow
def test_the_script_is_killed_and_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    process = start(whole)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-2000:]
    process = start(killed)
    deadline = time.monotonic() + 500
    while len(epochs(killed)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 3 <= len(epochs(killed)) < 8
    process = start(killed)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-2000:]
    assert "student: resumed at step" in output
    assert epochs(killed) == epochs(whole)
    results = [json.loads((folder / "runs" / "student" / "result.json").read_text()) for folder in (whole, killed)]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert results[0]["test_accuracy"]["student"] > 0.9  # it learns
    written = [json.loads((f / "runs" / "student" / "student" / "manifest.json").read_text()) for f in (whole, killed)]
    assert written[0]["network"]["digest"] == written[1]["network"]["digest"]
    for folder in (whole, killed):
        page = (folder / "runs" / "student" / "report.html").read_text()
        assert f"{100 * results[0]['test_accuracy']['student']:.2f} %" in page
    logits = [np.load(f / "runs" / "student" / "student" / "observation.npz")["logits"] for f in (whole, killed)]
    np.testing.assert_array_equal(*logits)
