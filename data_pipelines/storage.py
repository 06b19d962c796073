"""Where data lie: on a local file system, or behind a URL that fsspec reads (gs, s3, http, https, memory).

    locate("gs://bucket/oxe") / "bridge_dataset" / "1.0.0"     a RemotePath; local ones are pathlib's

Every request to a remote store is tried again where the fault may pass (5xx, reset connections, timeouts, bodies that
end early), with exponential backoff and jitter, then given up with one InputError. Credentials and other options of a
store come from its own environment or from fsspec's configuration files.
"""

import dataclasses
import functools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vla_jax.types import InputError

PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "memory": "fsspec"}
"""Protocol -> what has to be installed beside fsspec."""
MAX_ATTEMPTS = 8
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 15.0
REQUEST_SECONDS = 120.0
MAX_REQUESTS = 32
"""At the same time, of this process."""
BLOCK_BYTES = 4 << 20
BLOCKS_AHEAD = 3
VERSIONS = ("etag", "ETag", "generation", "md5Hash", "Content-MD5", "Digest", "mtime", "LastModified", "Last-Modified")
"""What the file systems call a mark that changes with a file's content; the first that is there is taken."""
NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),
    *("TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"),
    *("DefaultCredentialsError", "RefreshError"),
}
"""Errors of botocore and google.auth, which need not be installed, by name of the class."""
CREDENTIALS_ADVICE = "log in (`aws configure`, `gcloud auth application-default login`) or set the store's variables"
LOG = logging.getLogger(__name__)
T = TypeVar("T")
_requests = threading.BoundedSemaphore(MAX_REQUESTS)


class Stamp(NamedTuple):
    """Two files of equal stamp and name are taken for the same."""

    num_bytes: int
    version: str
    """Of local files the modification time; "" where a store gives nothing but the size."""


@dataclasses.dataclass(frozen=True)
class RemotePath:
    """The part of pathlib's Path that reading needs. FileNotFoundError where there is no file, InputError else."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, part: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{part}")

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def is_of_this_process(self) -> bool:
        """Other processes do not see it."""
        return self.url.startswith("memory:")

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def read_bytes(self) -> bytes:
        return self._request("reading the file", lambda: _store(self.url).cat_file(self.url))

    def read_range(self, offset: int, length: int) -> bytes:
        """InputError where the file is shorter."""
        end = offset + length
        return self._request(f"bytes {offset} to {end}", lambda: self._range(offset, end)) if length else b""

    def stamp(self) -> Stamp:
        info = self._request("asking for its size", lambda: _store(self.url).info(self.url))
        if info.get("size") is None:
            raise InputError(f"{self}: the server does not tell its size; range reads need it. Use another store")
        version = next((f"{key} {info[key]}" for key in VERSIONS if info.get(key)), "")
        return Stamp(int(info["size"]), version)

    def blocks(self, num_bytes: int) -> Generator[bytes, None, None]:
        """The whole file in order; a few blocks are read ahead."""
        starts = iter(range(0, num_bytes, BLOCK_BYTES))
        with ThreadPoolExecutor(BLOCKS_AHEAD, "read-ahead") as readers:
            ahead: deque = deque()
            for start in starts:
                ahead.append(readers.submit(self.read_range, start, min(BLOCK_BYTES, num_bytes - start)))
                if len(ahead) > BLOCKS_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _range(self, start: int, end: int) -> bytes:
        data = _store(self.url).cat_file(self.url, start=start, end=end)
        if len(data) > end - start:
            raise InputError(f"{self}: the server ignores ranges: {len(data)} bytes for {end - start}; use another")
        if len(data) < end - start:
            raise EOFError(f"{len(data)} of {end - start} bytes")
        return data

    def _request(self, what: str, call: Callable[[], T]) -> T:
        started = time.monotonic()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                with _requests:
                    return call()
            except InputError:
                raise
            except Exception as error:
                cause = f"{type(error).__name__}: {error}"
                if not is_transient(error):
                    is_refused = lacks_credentials(error)
                    if isinstance(error, FileNotFoundError) and not is_refused:
                        raise
                    advice = CREDENTIALS_ADVICE if is_refused else "check the address and the permissions"
                    raise InputError(f"{self}: {what}: {cause}; {advice}") from error
                if attempt == MAX_ATTEMPTS:
                    seconds = time.monotonic() - started
                    raise InputError(
                        f"{self}: {what}: given up after {attempt} attempts in {seconds:.1f} s, the last: {cause}; "
                        f"is the store reachable, and is the file whole?"
                    ) from error
            delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            LOG.info("%s: %s: attempt %d failed (%s), again in %.1f s", self, what, attempt, cause, delay)
            time.sleep(delay)
        raise AssertionError("the last attempt returns or raises")


Location = Path | RemotePath


def locate(address: str | Path) -> Location:
    """A local path or a URL."""
    protocol, mark, rest = str(address).partition("://")
    if not mark:
        return Path(address)
    if protocol == "file":
        return Path(rest)
    if protocol not in PACKAGES:
        raise InputError(f"{address}: {protocol}:// is not read; a path, file://, or one of {sorted(PACKAGES)} is")
    return RemotePath(str(address).rstrip("/"))


def stamp(path: Location) -> Stamp:
    """FileNotFoundError where there is no such file."""
    if isinstance(path, RemotePath):
        return path.stamp()
    status = path.stat()
    return Stamp(status.st_size, str(status.st_mtime_ns))


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    if lacks_credentials(error):
        return False
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return is_transient(error.__cause__)  # fsspec calls every failed question for a size so
    if isinstance(error, (FileNotFoundError, PermissionError, NotImplementedError)):
        return False
    return isinstance(error, (OSError, EOFError)) or type(error).__module__.startswith(("aiohttp", "botocore"))


def lacks_credentials(error: BaseException) -> bool:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return any(kind.__name__ in NO_CREDENTIALS for cause in causes for kind in type(cause).__mro__)


def _store(url: str) -> Any:
    return _open_store(url.partition("://")[0])


@functools.cache
def _open_store(protocol: str) -> Any:
    """One for all threads: it keeps its connections."""
    import fsspec

    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=10, sock_read=30)
            plain = {"Accept-Encoding": "identity"}  # who compresses ignores ranges, or counts gzip's bytes
            options = {"client_kwargs": {"timeout": limits}, "headers": plain}
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = PACKAGES[protocol]
        raise InputError(f"{protocol}:// needs the package {package}: `pip install {package}` ({error})") from error
