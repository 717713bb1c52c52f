"""Run and data directories in a bucket: an S3 server on this machine, real processes that are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from synthetic_sets import manual, mnist_members, pack, put
from tiny_runs import TINY, refused, start

from snnkd_jax import data, load
from snnkd_jax.data.on_disk import open_dataset
from snnkd_jax.errors import InputError
from snnkd_jax.files import append, as_path, delete, files_in, move, read_json, write_json

RUN = [
    *TINY,
    "--no-baseline",
    "--epochs",
    "4",
    "--teacher-epochs",
    "2",
    "--batch-size",
    "256",
    "--checkpoint-every",
    "3",
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket; the environment leads to its server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    environment = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    environment |= {"AWS_DEFAULT_REGION": "us-east-1", "no_proxy": "*", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=5)
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield "s3://bucket"
    server.kill()
    server.wait()


@pytest.mark.parametrize("scheme", ["ftp", "memory", "http"])
def test_an_address_that_cannot_be_opened_is_refused_before_anything_is_trained(capsys, scheme):
    message = refused(capsys, [*TINY, "--run-dir", f"{scheme}://host/run"])
    assert f"run_dir='{scheme}://host/run'" in message
    assert "gs, s3, az" in message


def test_a_missing_backend_is_named(capsys):
    message = refused(capsys, [*TINY, "--run-dir", "az://container/run"])
    assert "run_dir=az://container/run" in message
    assert "pip install adlfs" in message


def test_local_paths_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("path", "~/x") == as_path("path", Path("~/x")) == tmp_path / "x"
    assert as_path("path", "a b/ü") == Path("a b/ü")
    with pytest.raises(InputError, match="run_dir is empty"):
        as_path("run_dir", "")
    with pytest.raises(InputError, match="home"):
        as_path("path", "~nobody-of-this-name/x")


@pytest.mark.remote
def test_files_of_a_bucket_are_what_local_ones_are(bucket, tmp_path):
    for place in (tmp_path, as_path("path", f"{bucket}/files"), as_path("path", Path(f"{bucket}/of a path"))):
        directory = place / "one"
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "x.json", {"a": 1})
        append(directory / "log", "first")
        append(directory / "log", "second")
        assert read_json(directory / "x.json") == {"a": 1}
        assert (directory / "log").read_bytes() == b"first\nsecond\n"
        (directory / "deep").mkdir(exist_ok=True)
        write_json(directory / "deep" / "y.json", {})
        move(directory, place / "other" / "two")
        found = [path.relative_to(place).as_posix() for path in files_in(place)]
        assert found == ["other/two/deep/y.json", "other/two/log", "other/two/x.json"]
        delete(place / "other")
        delete(place / "other")
        assert list(files_in(place)) == []


@pytest.mark.remote
def test_killed_and_resumed_in_a_bucket_is_the_same_as_on_a_disk(bucket, tmp_path):
    run_dir = f"{bucket}/run"
    whole = start([*RUN, "--run-dir", str(tmp_path / "run")])
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    killed = start([*RUN, "--run-dir", run_dir])
    assert killed.stdout is not None
    assert any(line.startswith("student: epoch 2/") for line in killed.stdout)
    killed.send_signal(signal.SIGSTOP)
    second = start([*RUN, "--run-dir", run_dir])
    output, _ = second.communicate()
    assert second.returncode == 2
    assert f"run_dir {run_dir} is in use by process {killed.pid}" in output
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    process = start([*RUN, "--run-dir", run_dir])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    for role in ("teacher", "student"):
        found, expected = load(run_dir, role), load(tmp_path / "run", role)
        jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
        assert found.result == expected.result
        steps = [[(e["step"], e["validation"]) for e in network.history] for network in (found, expected)]
        assert steps[0] == steps[1]
    names = {path.relative_to(as_path("path", run_dir)).parts[0] for path in files_in(as_path("path", run_dir))}
    names -= {"student-damaged"}  # of a checkpoint that was being written when the process was killed
    assert names == {"config.json", "metrics.jsonl", "result.json", "report.html", "teacher", "student"}
    process = start([*RUN, "--run-dir", run_dir])  # finished: read, not trained
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "epoch" not in output


@pytest.mark.remote
def test_a_damaged_object_is_refused(bucket):
    student = as_path("path", f"{bucket}/run/student")
    manifest = json.loads((student / "manifest.json").read_bytes())
    name = next(name for name in manifest["files"] if name.startswith(f"{manifest['step']}/network/"))
    content = (student / name).read_bytes()
    (student / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="has changed since it was written"):
        load(f"{bucket}/run")
    (student / name).write_bytes(content)
    assert load(os.fspath(as_path("path", f"{bucket}/run"))).network.num_steps == 2


@pytest.mark.remote
@pytest.mark.filterwarnings("ignore:.* has SHA-256")
def test_a_data_set_in_a_bucket_is_the_local_one(bucket, data_dir, monkeypatch):
    """Prepared in a local folder and copied; what is read on access, or has to be prepared, is refused."""
    put(manual(data_dir, "mnist"), pack("mnist", mnist_members()[0]))
    local = data.load("mnist")
    for path in files_in(data_dir / "mnist"):
        target = as_path("path", f"{bucket}/sets") / path.relative_to(data_dir).as_posix()
        target.write_bytes(path.read_bytes())
    monkeypatch.setenv("TFDS_DATA_DIR", f"{bucket}/sets")
    for found in (data.load("mnist"), data.load("mnist", data_dir=f"{bucket}/sets")):
        np.testing.assert_array_equal(found.train_images, local.train_images)
        np.testing.assert_array_equal(found.test_labels, local.test_labels)
        assert found.class_names == local.class_names
    (version,) = as_path("path", f"{bucket}/sets/mnist").iterdir()
    (version / "dataset_info.json").unlink()
    with pytest.raises(InputError, match=r"no dataset_info.json\): copy it there again with aws s3 cp"):
        data.load("mnist")
    with pytest.raises(InputError, match=r"cifar10 is not in data_dir=s3://bucket/sets: .* aws s3 cp --recursive"):
        data.load("cifar10")
    with pytest.raises(InputError, match=r"data_dir=s3://bucket/sets: the images of imagenet2012 .* aws s3 cp"):
        open_dataset("imagenet2012")
