"""Downloads that leave verified files only, and fail within seconds without a network, where TFDS's take minutes."""

import concurrent.futures
import http.client
import os
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from snnkd_jax.digest import sha256

_ANSWER_SECONDS = 6  # for name lookup, connection and the first line of the answer together
_STALL_SECONDS = 30  # without a byte in the middle of a file


def download(url: str, path: Path, size: int, checksum: str) -> None:
    """Downloads `url` to `path`, which appears only once its `size` (bytes) and `checksum` (SHA-256, hex) are right.

    Raises `OSError` for no answer, a broken connection, other content, or a `path` that cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with _open(url) as response, part.open("wb") as file:
            print(f"downloading {url} ...")
            shutil.copyfileobj(response, file)
        content = part.read_bytes()
        if len(content) != size:
            raise OSError(f"{url} has another size than the {size} bytes expected, or the connection broke")
        if sha256(content) != checksum:
            raise OSError(f"{url} has SHA-256 {sha256(content)} instead of {checksum}")
        part.rename(path)
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from error
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> http.client.HTTPResponse:
    # A name lookup has no timeout, so it runs in a daemon thread, which the process need not wait for.
    answer: concurrent.futures.Future[http.client.HTTPResponse] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(url, timeout=_STALL_SECONDS))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    host = urllib.parse.urlsplit(url).netloc
    if not concurrent.futures.wait([answer], _ANSWER_SECONDS).done:
        raise TimeoutError(f"{host} did not answer within {_ANSWER_SECONDS} s")
    try:
        return answer.result()
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{host} answered {error.code} {error.reason}") from error
    except Exception as error:
        raise OSError(f"{host}: {getattr(error, 'reason', error)}") from error
