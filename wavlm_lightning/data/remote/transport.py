"""Download a file over http(s), or through fsspec (s3, gs, ...), with retries and resume."""

from __future__ import annotations

import http.client
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from wavlm_lightning.system.errors import UserError

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


def download(url: str, file: BinaryIO, size: int | None = None, patience: Patience | None = None) -> None:
    """Download a file, continuing after the bytes that `file` already holds.

    `file` is open for reading and writing; it may hold the beginning if `size` (bytes of the whole) is known. Without
    `size`, the server is trusted.

    Raises:
        NotThere: the server does not have the file.
        UserError: all attempts failed; the bytes that arrived stay in `file`.
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
            _append(url, file, have, size, patience.timeout_seconds)
            return
        except Temporary as error:
            failures = 0 if file.seek(0, 2) - have >= PROGRESS else failures + 1
            if failures >= patience.attempts:
                raise UserError(
                    f"{shown(url)}: gave up after {failures} attempts in a row ({error}); check the server or the "
                    "connection and run the command again, it continues where it stopped"
                ) from error
            time.sleep(max(patience.pause(max(failures, 1)), min(error.wait_seconds, patience.longest_seconds)))


def _append(url: str, file: BinaryIO, have: int, size: int | None, timeout: float) -> None:
    """One attempt; all bytes that arrive are written."""
    with closing(_chunks(url, have, timeout)) as chunks:
        have = file.truncate(file.seek(int(next(chunks))))
        for chunk in chunks:
            chunk = chunk if size is None else chunk[: size - have]
            have += file.write(chunk)
            if have == size:
                return
    if size is not None:
        raise Temporary(f"it ended after {have} of {size} bytes")


def _chunks(url: str, offset: int, timeout: float) -> Generator[Any, None, None]:
    """First the offset at which the answer begins (0 if the server does not support ranges), then its bytes.

    Only reading raises `Temporary`: an error of the consumer, such as a full disk, is not an error of the connection.
    """
    if urlsplit(url).scheme in ("http", "https"):
        return _http_chunks(url, offset, timeout)
    return _fsspec_chunks(url, offset)


def _http_chunks(url: str, offset: int, timeout: float) -> Generator[Any, None, None]:
    # `identity`: a proxy that compresses on the way would make byte ranges meaningless.
    request = urllib.request.Request(url, headers={"User-Agent": "wavlm_lightning", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
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
    with response:
        span = response.headers.get("Content-Range", "")
        yield offset if response.status == 206 and span.startswith(f"bytes {offset}-") else 0
        promised, arrived = response.headers.get("Content-Length"), 0
        while chunk := _read(response):
            arrived += len(chunk)
            yield chunk
        # http.client does not raise if the body ends early.
        if promised is not None and arrived != int(promised):
            raise Temporary(f"the connection dropped after {arrived} of {promised} bytes")


def _read(stream: Any) -> bytes:
    try:
        return stream.read(CHUNK)
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


def _fsspec_chunks(url: str, offset: int) -> Generator[Any, None, None]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        extra = "run `pip install 'wavlm_lightning[s3]'`" if urlsplit(url).scheme in ("s3", "s3a") else "install it"
        raise UserError(
            f"{shown(url)}: URLs of this kind need another package ({error}); {extra}, or use https"
        ) from error
    except ValueError as error:
        raise UserError(f"{shown(url)}: URLs of this kind cannot be read ({error}); use https or s3") from error
    try:
        stream = files.open(path, "rb")
        stream.seek(offset)
    except FileNotFoundError as error:
        raise NotThere(f"{shown(url)}: no such file there; check the URL") from error
    except PermissionError as error:
        raise UserError(f"{shown(url)}: not allowed ({error}); check your credentials") from error
    except Exception as error:
        raise Temporary(f"{error!r}") from error
    with stream:
        yield offset
        while chunk := _read(stream):
            yield chunk
