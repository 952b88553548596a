"""The cache of remote corpora: bounded, shared by processes, and never in the way of the next run."""

import json
import subprocess
import sys
import time

import pytest
from unreliable import HASTY, fetched, same, shards

from wavlm_lightning.data.remote import cache_space
from wavlm_lightning.data.remote.mirror import materialise, mirror
from wavlm_lightning.system.errors import UserError

PROGRAM = """
import json, resource, sys
from pathlib import Path
from wavlm_lightning.data.remote.mirror import materialise

folder, rows, largest = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
if largest:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
for row in rows:
    materialise(folder / row["name"], row)
"""


def start(folder, rows: list[dict], largest_file: int = 0) -> subprocess.Popen:
    """A process that brings shards."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), json.dumps(rows), str(largest_file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def bounded(monkeypatch, rows, shards_held: float) -> None:
    monkeypatch.setenv("WAVLM_CACHE_GIB", repr(shards_held * max(row["bytes"] for row in rows) / cache_space.GIB))


def test_the_least_recently_used_make_room(server, origin, monkeypatch):
    folder = mirror(server.url + "c/", HASTY)
    rows = shards(origin)
    bounded(monkeypatch, rows, 2.2)
    paths = [folder / row["name"] for row in rows]
    for path, row in zip(paths[:2], rows[:2], strict=True):
        materialise(path, row, HASTY)
        time.sleep(0.01)
    materialise(paths[0], rows[0], HASTY)  # used again, so the other one is older
    with paths[1].open("rb") as reading:
        materialise(paths[2], rows[2], HASTY)
        assert [path.exists() for path in paths] == [True, False, True]
        assert reading.read() == (origin / "c" / rows[1]["name"]).read_bytes()
    # A corpus larger than the bound works, round after round; that it is brought time and again is said.
    with pytest.warns(UserWarning, match="raise WAVLM_CACHE_GIB"):
        for _ in range(2):
            for path, row in zip(paths, rows, strict=True):
                materialise(path, row, HASTY)
                assert same(folder, origin, path.name)
                held = sum(file.stat().st_size for file in folder.glob("*.tar"))
                assert held <= cache_space.bound()


def test_a_shard_larger_than_the_bound_is_refused(server, origin, monkeypatch):
    folder = mirror(server.url + "c/", HASTY)
    row = shards(origin)[0]
    bounded(monkeypatch, [row], 0.9)
    with pytest.raises(UserError, match=r"train-000000\.tar.*do not fit the cache.*raise WAVLM_CACHE_GIB"):
        materialise(folder / row["name"], row, HASTY)
    monkeypatch.setenv("WAVLM_CACHE_GIB", "much")
    with pytest.raises(UserError, match="WAVLM_CACHE_GIB=much: not a size"):
        materialise(folder / row["name"], row, HASTY)


def test_a_full_disk_is_said(server, origin, monkeypatch):
    folder = mirror(server.url + "c/", HASTY)
    row = shards(origin)[0]
    monkeypatch.setenv("WAVLM_CACHE_GIB", "1e12")
    with pytest.raises(UserError, match=r"the disk has .* left and .* are needed"):
        materialise(folder / row["name"], {**row, "bytes": 10**18}, HASTY)
    # A file-size limit stands for the disk that is filled by others while the shard arrives.
    _, errors = start(folder, [row], largest_file=500_000).communicate(timeout=120)
    assert "UserError" in errors and "the disk is full" in errors
    assert not (folder / row["name"]).exists() and not list(folder.glob(".*.part"))


def test_processes_at_once_bring_each_shard_once(server, origin):
    folder = mirror(server.url + "c/", HASTY)
    rows = shards(origin)
    for row in rows:
        server.moods[row["name"]] = ["slow"]
    both = [start(folder, rows) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    for row in rows:
        assert len(fetched(server, row["name"])) == 1 and same(folder, origin, row["name"])


def test_processes_that_need_each_others_room_do_not_block(server, origin, cache, monkeypatch):
    folder = mirror(server.url + "c/", HASTY)
    rows = shards(origin)
    bounded(monkeypatch, rows, 1.5)
    for row in rows:
        server.always[row["name"]] = "slow"
    all_of_them = [start(folder, order) for order in (rows, rows[::-1], rows[1:] + rows[:1])]
    most = 0
    while any(process.poll() is None for process in all_of_them):
        with cache_space.locked(cache / ".lock"):  # nothing comes, goes or changes its name while we look
            held = [*folder.glob("*.tar"), *folder.glob(".*.part")]
            most = max(most, sum(path.stat().st_size for path in held))
        time.sleep(0.005)
    assert [process.returncode for process in all_of_them] == [0, 0, 0]
    assert max(row["bytes"] for row in rows) <= most <= cache_space.bound()


def test_a_killed_process_leaves_nothing_in_the_way(server, origin):
    folder = mirror(server.url + "c/", HASTY)
    row = shards(origin)[0]
    server.moods[row["name"]] = ["stall"]
    process = start(folder, [row])
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in folder.glob(".*.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    server.go_on.set()
    assert not (folder / row["name"]).exists()
    materialise(folder / row["name"], row, HASTY)
    assert same(folder, origin, row["name"]) and fetched(server, row["name"])[-1][0] > 0
