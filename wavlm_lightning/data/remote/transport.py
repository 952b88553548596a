"""Download a file over http(s), or through fsspec (s3, gs, ...), with retries and resume."""

from __future__ import annotations

import http.client
import io
import queue
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from wavlm_lightning.system.errors import UserError, pip_install

T = TypeVar("T")
CHUNK = 1 << 17
PROGRESS = 1 << 20  # bytes after which a failed attempt does not count as a failure


@dataclass(frozen=True)
class Patience:
    """How often and how fast to retry.

    The pause doubles with each failure, less up to half of it by chance, so that many processes do not retry together.
    """

    attempts: int = 8  # failures in a row that brought less than a MiB each
    first_seconds: float = 0.5  # pause after the first failure
    longest_seconds: float = 30.0  # longest pause
    timeout_seconds: float = 60.0  # silence of the server that counts as a failure
    least_speed: float = 4096.0  # bytes/s over `timeout_seconds` of waiting; a slower answer counts as a failure, too

    def pause(self, failures: int) -> float:
        return random.uniform(0.5, 1.0) * min(self.longest_seconds, self.first_seconds * 2 ** (failures - 1))


class NotThere(UserError):
    """The server answers and does not have, or does not show, this file."""


class Temporary(Exception):
    """An error after which another attempt may succeed, with the pause that the server asked for."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def address(base: str, name: str) -> str:
    """The URL of a file below a base URL; a query of the base (a signature) stays."""
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


def shown(url: str) -> str:
    """A URL as messages show it: without its query and password, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def download(
    url: str, file: BinaryIO, size: int | None = None, patience: Patience | None = None, most: int = 1 << 30
) -> None:
    """Download a file, continuing after the bytes that `file` already holds.

    The time is bounded: by the size, the least speed of `patience`, and the number of its attempts.

    Args:
        url: of the file.
        file: open for reading and writing; it may hold the beginning if `size` is known.
        size: bytes of the whole; None if nobody but the server knows.
        patience: how often to retry.
        most: bytes that a file of unknown size may have.

    Raises:
        NotThere: the server does not have the file.
        UserError: all attempts failed, and the bytes that arrived stay in `file`; or the file is larger than `most`.
        OSError: `file` cannot be written.
    """
    patience = patience or Patience()
    failures = 0
    while True:
        have = file.seek(0, 2)
        if size is None or have > size:
            have = file.truncate(file.seek(0))
        if size is not None and have == size:
            return
        try:
            _append(url, file, have, size, most if size is None else size, patience)
            return
        except Temporary as error:
            failures = 0 if file.seek(0, 2) - have >= PROGRESS else failures + 1
            if failures >= patience.attempts:
                raise UserError(
                    f"{shown(url)}: gave up after {failures} attempts in a row ({error}); check the server or the "
                    "connection and run the command again, it continues where it stopped"
                ) from error
            time.sleep(max(patience.pause(max(failures, 1)), min(error.wait_seconds, patience.longest_seconds)))


def _append(url: str, file: BinaryIO, have: int, size: int | None, most: int, patience: Patience) -> None:
    """One attempt; all bytes that arrive are written, up to `size`."""
    with closing(_chunks(url, have, patience)) as chunks:
        have = file.truncate(file.seek(int(next(chunks))))
        for chunk in chunks:
            if size is None and have + len(chunk) > most:
                raise UserError(
                    f"{shown(url)}: sends more than the {most:,} bytes that such a file can have; check the URL, or do not "
                    "trust this server"
                )
            have += file.write(chunk[: most - have])
            if have == size:
                return
    if size is not None:
        raise Temporary(f"it ended after {have} of {size} bytes")


def _chunks(url: str, offset: int, patience: Patience) -> Generator[Any, None, None]:
    """First the offset at which the answer begins (0 if the server does not support ranges), then its bytes.

    Only reading raises `Temporary`: an error of the consumer, such as a full disk, is not an error of the connection.
    """
    if urlsplit(url).scheme in ("http", "https"):
        return _http_chunks(url, offset, patience)
    return _fsspec_chunks(url, offset, patience)


class _Paced(io.RawIOBase):
    """The bytes of a connection, which fails if they come too slowly; only waiting for them counts, not what is done with them.

    The timeout of a socket counts silence alone: a server that sends a byte now and then would be waited for without end.
    """

    def __init__(self, stream: io.RawIOBase, patience: Patience) -> None:
        self.stream, self.patience = stream, patience
        self.waited, self.arrived = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        begin = time.monotonic()
        found = self.stream.readinto(buffer)
        self.waited += time.monotonic() - begin
        self.arrived += found or 0
        window, least = self.patience.timeout_seconds, self.patience.least_speed
        if self.waited >= window:
            if self.arrived < least * self.waited:
                raise TimeoutError(f"{self.arrived:,} bytes in {self.waited:.3g} s, less than {least:g} bytes/s")
            self.waited, self.arrived = 0.0, 0
        return found

    def close(self) -> None:
        self.stream.close()
        super().close()


def _opener(patience: Patience) -> urllib.request.OpenerDirector:
    """Opens http(s) URLs, and redirects to such; header and body of each answer are `_Paced`."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: Any, *arguments: Any, **settings: Any) -> None:
            super().__init__(sock, *arguments, **settings)
            paced = _Paced(self.fp.detach(), patience)
            self.fp = io.BufferedReader(paced)

    class Connection(http.client.HTTPConnection):
        response_class = Response

    class SecureConnection(http.client.HTTPSConnection):
        response_class = Response

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(Connection, request)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            return self.do_open(SecureConnection, request)

    class OtherSchemes(urllib.request.BaseHandler):
        def default_open(self, request: Any) -> None:
            if request.type not in ("http", "https"):
                raise UserError(
                    f"{shown(request.full_url)}: the server redirects to this, which is neither http nor https"
                )

    return urllib.request.build_opener(OtherSchemes, Plain, Secure)


def _http_chunks(url: str, offset: int, patience: Patience) -> Generator[Any, None, None]:
    # `identity`: a proxy that compresses on the way would make byte ranges meaningless.
    request = urllib.request.Request(url, headers={"User-Agent": "wavlm_lightning", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = _opener(patience).open(request, timeout=patience.timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        raise _judge(url, error) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"{shown(url)}: the server's certificate is not trusted ({reason}); repair the certificate or use another URL"
            ) from error
        raise Temporary(f"{reason!r}") from error
    except ValueError as error:  # a redirect to something that is no URL
        raise UserError(f"{shown(url)}: leads to no usable address ({error}); check the URL") from error
    with response:
        promised, arrived = response.headers.get("Content-Length"), 0
        if promised is not None and re.fullmatch("[0-9]{1,18}", promised) is None:
            raise Temporary(f"the server's Content-Length is {promised[:40]!r}")
        span = response.headers.get("Content-Range", "")
        yield offset if response.status == 206 and span.startswith(f"bytes {offset}-") else 0
        while chunk := _read(response):
            arrived += len(chunk)
            yield chunk
        # http.client does not raise if the body ends early.
        if promised is not None and arrived != int(promised):
            raise Temporary(f"the connection dropped after {arrived} of {promised} bytes")


def _read(stream: Any, seconds: float | None = None) -> bytes:
    """The next bytes, up to a chunk; `Temporary` if that fails, or takes longer than `seconds`."""
    # `read1` gives what has arrived; `read` would wait for a whole chunk.
    read = stream.read1 if hasattr(stream, "read1") else stream.read
    try:
        return read(CHUNK) if seconds is None else _within(seconds, lambda: read(CHUNK))
    except Exception as error:  # each file system of fsspec raises its own exceptions for a dropped connection
        raise Temporary(f"{error!r}") from error


def _judge(url: str, error: urllib.error.HTTPError) -> Exception:
    """The exception for an HTTP status: `Temporary` if another attempt may help."""
    if error.code in (408, 416, 425, 429) or error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        return Temporary(f"HTTP status {error.code}", float(wait) if wait.isdecimal() else 0.0)
    if error.code in (403, 404, 410):
        return NotThere(
            f"{shown(url)}: no such file on the server, or not for us (HTTP status {error.code}); check the URL"
        )
    return UserError(f"{shown(url)}: refused (HTTP status {error.code}); check the URL and your access rights")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that must not take longer; one that does goes on in its thread, and nobody waits for it."""
    answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True, name="reading a store").start()
    try:
        found, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.3g} s") from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def _fsspec_chunks(url: str, offset: int, patience: Patience) -> Generator[Any, None, None]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        extra = pip_install("s3") if urlsplit(url).scheme in ("s3", "s3a") else "install it"
        raise UserError(
            f"{shown(url)}: URLs of this kind need another package ({error}); {extra}, or use https"
        ) from error
    except ValueError as error:
        raise UserError(f"{shown(url)}: URLs of this kind cannot be read ({error}); use https or s3") from error

    def begin() -> Any:
        stream = files.open(path, "rb")
        stream.seek(offset)
        return stream

    try:
        stream = _within(patience.timeout_seconds, begin)
    except FileNotFoundError as error:
        raise NotThere(f"{shown(url)}: no such file there; check the URL") from error
    except PermissionError as error:
        raise UserError(f"{shown(url)}: not allowed ({error}); check your credentials") from error
    except Exception as error:
        raise Temporary(f"{error!r}") from error
    # A store gives a block at a time, and nobody sees how much of it has come: at the least speed it takes this long.
    block = getattr(stream, "blocksize", None) or CHUNK
    seconds = max(patience.timeout_seconds, block / patience.least_speed)
    with stream:
        yield offset
        while chunk := _read(stream, seconds):
            yield chunk
