"""A real HTTP server on loopback that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from wavlm_lightning.data.remote.transport import Patience

HASTY = Patience(attempts=4, first_seconds=0.01, longest_seconds=0.05, timeout_seconds=0.4)


class UnreliableServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        moods: for a file name, what befalls its next requests, one after the other: a status (500), `drop` (the line
            breaks in the middle), `hang` (silence), `promise` (Content-Length too large), `stingy` (too small),
            `flip` (a damaged byte), `slow` (in small pieces), `stall` (half, and the rest after `go_on`);
            afterwards all is well.
        always: what befalls every request of a file name.
        ranges: whether the server knows ranges.
        requests: (file name, first byte, status) of what was answered.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.moods: dict[str, list[int | str]] = {}
        self.always: dict[str, int | str] = {}
        self.ranges = True
        self.go_on = threading.Event()
        self.requests: list[tuple[str, int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address) -> None:
        """Broken lines are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: UnreliableServer

    def do_GET(self) -> None:
        path = self.server.folder / urlsplit(self.path).path.lstrip("/")
        moods = self.server.moods.get(path.name)
        mood = moods.pop(0) if moods else self.server.always.get(path.name, "well")
        if not path.is_file() or isinstance(mood, int):
            status = mood if isinstance(mood, int) else 404
            self.server.requests.append((path.name, 0, status))
            self.send_error(status)
            return
        body = bytearray(path.read_bytes())
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted and self.server.ranges else 0
        status = 206 if first else 200
        self.server.requests.append((path.name, first, status))
        if mood == "flip":
            body[len(body) // 2] ^= 1
        total, rest = len(body), bytes(body[first:])
        half = len(rest) // 2
        if mood == "hang":
            time.sleep(1.0)
        self.send_response(status)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.send_header("Content-Length", str({"promise": len(rest) + 999, "stingy": half}.get(str(mood), len(rest))))
        self.end_headers()
        if mood == "stall":
            self.wfile.write(rest[:half])
            self.wfile.flush()
            self.server.go_on.wait(120)
            rest = rest[half:]
        if mood == "slow":
            step = max(1, len(rest) // 20)
            for begin in range(0, len(rest), step):
                self.wfile.write(rest[begin : begin + step])
                self.wfile.flush()
                time.sleep(0.01)
        else:
            self.wfile.write(rest[:half] if mood in ("drop", "stingy") else rest)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def unreliable_server(folder: Path) -> Iterator[UnreliableServer]:
    """Serve a folder while the block runs."""
    with UnreliableServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def shards(origin: Path) -> list[dict]:
    return json.loads((origin / "c" / "corpus.json").read_text())["splits"]["train"]["shards"]


def fetched(server: UnreliableServer, name: str) -> list[tuple[int, int]]:
    return [(first, status) for file, first, status in server.requests if file == name]


def same(folder: Path, origin: Path, name: str) -> bool:
    return (folder / name).read_bytes() == (origin / "c" / name).read_bytes()
