"""Downloads of archives, and every way in which the network can fail; the servers are on this machine."""

import contextlib
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from representative import slow
from synthetic_sets import (
    assert_input_error,
    assert_same_examples,
    cifar_members,
    flip_last,
    manual,
    mnist_members,
    pack,
    put,
    run_python,
)

from snnkd_jax.data import load, prepare
from snnkd_jax.errors import InputError


@contextlib.contextmanager
def serving(bodies: dict[str, bytes], headers: dict[str, str] | None = None) -> Iterator[str]:
    """Serves `bodies` by file name on loopback, with false `headers` where given."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path.rsplit("/", 1)[1])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            for key, value in (headers or {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/folder/"
        server.shutdown()


def publish(monkeypatch: pytest.MonkeyPatch, base: str, archives: dict[str, bytes]) -> None:
    """Makes `base` the official address, and the checksums and sizes of `archives` the official ones."""
    official = {
        file: (base + file, SimpleNamespace(size=len(data), checksum=hashlib.sha256(data).hexdigest()))
        for file, data in archives.items()
    }
    monkeypatch.setattr(prepare, "_official_files", lambda _: official)


def test_download(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files are downloaded, one is there already; no warning, since all have the official checksum."""
    members, splits = mnist_members()
    archives = pack("mnist", members)
    local = "train-images-idx3-ubyte.gz"
    put(manual(data_dir, "mnist"), {local: archives[local]})
    with serving({file: data for file, data in archives.items() if file != local}) as base:
        publish(monkeypatch, base, archives)
        assert_same_examples(load("mnist"), splits)
    assert {path.name: path.read_bytes() for path in manual(data_dir, "mnist").iterdir()} == archives


@pytest.mark.parametrize("fault", ["checksum", "longer", "shorter", "broken connection", "broken chunks", "not found"])
def test_bad_download_leaves_no_file(fault: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = pack("cifar10", cifar_members("cifar10")[0])
    ((file, data),) = archives.items()
    bodies, headers, what = {
        "checksum": ({file: flip_last(data)}, None, "SHA-256"),
        "longer": ({file: data + b"\0"}, None, "another size"),
        "shorter": ({file: data[:-1]}, None, "another size"),
        "broken connection": ({file: data[:-1]}, {"Content-Length": str(len(data))}, ""),
        "broken chunks": ({file: data}, {"Transfer-Encoding": "chunked"}, "IncompleteRead"),
        "not found": ({}, None, "answered 404"),
    }[fault]
    with serving(bodies, headers) as base:
        publish(monkeypatch, base, archives)
        assert_input_error(lambda: load("cifar10"), "downloading failed", what, file, base)
    assert list(manual(data_dir, "cifar10").iterdir()) == []
    assert not (data_dir / "cifar10").exists()


def test_error_names_the_files_still_missing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = pack("mnist", mnist_members()[0])
    served = dict(sorted(archives.items())[:2])  # the first two of four
    with serving(served) as base:
        publish(monkeypatch, base, archives)
        with pytest.raises(InputError) as caught:
            load("mnist")
    assert [file in str(caught.value) for file in sorted(archives)] == [False, False, True, True]
    assert {path.name for path in manual(data_dir, "mnist").iterdir()} == served.keys()


@pytest.mark.parametrize("kind", ["refused", slow("silent")])
def test_no_network_fails_within_ten_seconds(kind: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port stands for a missing network, a socket that never answers for a firewall that drops packets."""
    archives = pack("mnist", mnist_members()[0])
    local = "t10k-labels-idx1-ubyte.gz"
    put(manual(data_dir, "mnist"), {local: archives[local]})
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind == "silent":
            server.listen()
        base = f"http://127.0.0.1:{server.getsockname()[1]}/"
        publish(monkeypatch, base, archives)
        start = time.monotonic()
        missing = [file for file in archives if file != local]
        assert_input_error(
            lambda: load("mnist"), "--dataset mnist", str(manual(data_dir, "mnist")), *missing, "--dataset digits", base
        )
        assert time.monotonic() - start < 10


@pytest.mark.slow
def test_hanging_name_lookup(data_dir: Path) -> None:
    """A name lookup cannot be interrupted: neither the call nor the end of the process may wait for it."""
    code = """
        import socket, time
        from snnkd_jax.data import download
        from snnkd_jax.errors import InputError
        download._ANSWER_SECONDS = 1
        socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
        try:
            load("cifar10")
        except InputError as error:
            print(error)
    """
    start = time.monotonic()
    done = run_python(code, data_dir / "packages")
    assert time.monotonic() - start < 10
    assert done.returncode == 0, done.stderr
    assert "did not answer within 1 s" in done.stdout
    assert "--dataset digits" in done.stdout
