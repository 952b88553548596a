"""Servers that trickle, never end, redirect in circles or lie about lengths cost a bounded time and bounded memory."""

from __future__ import annotations

import contextlib
import io
import socketserver
import threading
import time

import fsspec
import pytest

from wavlm_lightning.data.remote import mirror as mirrors
from wavlm_lightning.data.remote.mirror import mirror
from wavlm_lightning.data.remote.transport import NotThere, Patience, download
from wavlm_lightning.system.errors import UserError

HURRIED = Patience(attempts=2, first_seconds=0.01, longest_seconds=0.02, timeout_seconds=0.5, least_speed=1000)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def in_time():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 8


@contextlib.contextmanager
def serving(answer):
    """A server that gives `answer(send, request)` a connection; yields its URL."""
    stop = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(65536)
            with contextlib.suppress(OSError):
                answer(self.request.sendall, request, stop)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            stop.set()
            server.shutdown()
            thread.join()


def trickling_header(send, request, stop):
    send(OK)
    while not stop.wait(0.05):
        send(b"X")


def trickling_body(send, request, stop):
    send(OK + b"Content-Length: 5000\r\n\r\n")
    while not stop.wait(0.05):
        send(b"x")


def trickling_chunks(send, request, stop):
    send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while not stop.wait(0.05):
        send(b"1\r\nx\r\n")


def strange_length(length):
    return lambda send, request, stop: send(OK + f"Content-Length: {length}\r\n\r\nabc".encode())


@pytest.mark.parametrize("answer", [trickling_header, trickling_body, trickling_chunks])
@pytest.mark.parametrize("size", [None, 5000])
def test_a_server_that_trickles_is_given_up(answer, size):
    with serving(answer) as url, pytest.raises(UserError, match=r"gave up after 2 attempts .*less than 1000 bytes/s"):
        download(url, io.BytesIO(), size, HURRIED)


@pytest.mark.parametrize("length", ["abc", "-5", "1e9", "9" * 400, "5, 5"])
def test_a_content_length_that_is_no_number(length):
    with (
        serving(strange_length(length)) as url,
        pytest.raises(UserError, match=r"gave up after 2 attempts .*Content-Length"),
    ):
        download(url, io.BytesIO(), None, HURRIED)


def test_a_body_that_never_ends_is_cut_off(monkeypatch):
    def endless(send, request, stop):
        send(OK + b"\r\n")
        while not stop.is_set():
            send(b'{"a": 1}' * 8192)

    with serving(endless) as url:
        file = io.BytesIO()
        with pytest.raises(UserError, match="sends more than the 1,000,000 bytes"):
            download(url, file, None, HURRIED, most=1_000_000)
        assert len(file.getvalue()) <= 1_000_000
        file = io.BytesIO()
        download(url, file, 70_000, HURRIED)  # its size is known: more is not read
        assert len(file.getvalue()) == 70_000
        monkeypatch.setattr(mirrors, "MOST", 2_000_000)
        with pytest.raises(UserError, match="sends more than the 2,000,000 bytes"):
            mirror(url, HURRIED)


def to(place):
    return lambda send, request, stop: send(
        f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    "place", ["/", "/a", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://127.0.0.1:x/"]
)
def test_redirects_in_circles_and_to_elsewhere(place):
    with serving(to(place)) as url, pytest.raises(UserError) as caught:
        download(url + "corpus.json", io.BytesIO(), None, HURRIED)
    assert not isinstance(caught.value, NotThere) and "\n" not in str(caught.value)


@pytest.mark.parametrize("at", ["open", "read"])
def test_a_store_that_does_not_answer_is_given_up(at, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.tar", b"x" * 5000)
    waiting = threading.Event()
    opened = type(memory).open

    def deaf(self, *arguments, **settings):
        stream = opened(self, *arguments, **settings)
        stream.blocksize = 100
        stream.read1 = lambda _: waiting.wait(20)
        return waiting.wait(20) if at == "open" else stream

    monkeypatch.setattr(type(memory), "open", deaf)
    try:
        with pytest.raises(
            UserError, match=r"memory://corpus/a.tar: gave up after 2 attempts .*no answer within 0.5 s"
        ):
            download("memory://corpus/a.tar", io.BytesIO(), 5000, HURRIED)
    finally:
        waiting.set()


def test_a_store_that_answers_is_read():
    fsspec.filesystem("memory").pipe("/corpus/b.tar", bytes(range(250)) * 2000)
    file = io.BytesIO(bytes(range(250)) * 10)  # the beginning is there
    download("memory://corpus/b.tar", file, 500_000, HURRIED)
    assert file.getvalue() == bytes(range(250)) * 2000


def test_a_server_that_is_merely_slow_is_waited_for():
    """Each window of waiting brings enough; what is done with the bytes takes no patience."""

    def slow(send, request, stop):
        send(OK + b"Content-Length: 8000\r\n\r\n")
        for _ in range(20):
            send(b"x" * 400)
            time.sleep(0.05)

    class Lazy(io.BytesIO):
        def write(self, content):
            time.sleep(0.02)
            return super().write(content)

    with serving(slow) as url:
        file = Lazy()
        download(url, file, None, HURRIED)
    assert len(file.getvalue()) == 8000
