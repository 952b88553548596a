"""Atomic writes, folder replacement and locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import (
    Busy,
    atomic_write,
    finish_replacing,
    locked,
    replace_folder,
    sweep_leftovers,
    write_bytes,
    write_json,
    write_text,
)
from wavlm_lightning.system.reading import read_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_when_the_block_ends(tmp_path, durable):
    path = tmp_path / "a.csv"
    write_text(path, "old é")
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "old é"
    assert path.read_text() == "new" and names(tmp_path) == ["a.csv"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path, temporary=tmp_path / "a.new") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_folder_takes_the_place_of_a_folder_or_a_file(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("a file")
    for content in ("first", "second"):
        (tmp_path / "fresh").mkdir()
        (tmp_path / "fresh" / content).touch()
        replace_folder(tmp_path / "fresh", path)
        assert names(path) == [content] and names(tmp_path) == ["last.ckpt"]
    path.rename(tmp_path / "last.ckpt.old")  # killed between the two renames
    finish_replacing(path)
    finish_replacing(path)
    assert names(path) == ["second"] and names(tmp_path) == ["last.ckpt"]


def test_a_lock_is_refused_to_others_and_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from wavlm_lightning.system.files import locked\n"
        f"with locked(Path({str(tmp_path / 'lock')!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="it is held"), locked(tmp_path / "lock", "it is held"):
            pass
        process.kill()
    with locked(tmp_path / "lock"), pytest.raises(Busy), locked(tmp_path / "lock", "it is held"):
        pass
    with locked(tmp_path / "lock", "it is held"):
        pass


@pytest.mark.slow
def test_data_and_upstreams_import_without_fcntl():
    code = (
        "import sys; sys.modules['fcntl'] = None; import wavlm_lightning.data.writing, wavlm_lightning.upstreams.cache"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_lock_is_not_kept_by_forked_processes(tmp_path):
    """A killed run must not own its folder until the processes that read audio for it have noticed."""
    code = (
        "import os, time; from pathlib import Path; from wavlm_lightning.system.files import locked\n"
        f"with locked(Path({str(tmp_path / 'lock')!r})):\n"
        "    if os.fork() == 0: print('child', flush=True); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "child\n"
            with pytest.raises(Busy), locked(tmp_path / "lock", "held"):
                pass
            process.kill()
            process.wait()
            with locked(tmp_path / "lock", "held"):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_temporary_lock_leaves_nothing_and_is_waited_for(tmp_path):
    path, order = tmp_path / "lock", []

    def other() -> None:
        with locked(path, temporary=True):
            order.append("other")

    with locked(path, temporary=True):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"] and names(tmp_path) == []


def test_leftovers_are_swept_and_files_in_the_making_are_not(tmp_path):
    left = [f"a.csv.{'0' * 32}.tmp", f".b.{'f' * 32}.tmp"]
    for name in [*left, "mine.tmp", "a.csv", f"x.{'0' * 31}.tmp"]:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "new") as temporary:
        temporary.write_text("half")
        sweep_leftovers(tmp_path)
        assert temporary.is_file()
    assert names(tmp_path) == sorted(["mine.tmp", "a.csv", f"x.{'0' * 31}.tmp", "new"])
    (tmp_path / "last.ckpt.new").mkdir()
    sweep_leftovers(tmp_path, r".*\.ckpt\.new")
    sweep_leftovers(tmp_path / "nowhere")
    assert "last.ckpt.new" not in names(tmp_path)


def test_a_link_is_swept_without_what_it_points_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / f"a.{'0' * 32}.tmp").symlink_to(tmp_path / "precious")
    sweep_leftovers(tmp_path)
    assert names(tmp_path / "precious") == ["file"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "[1]", "3", "[" * 100_000, "\0"])
def test_half_a_file_is_one_sentence(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json: .*remove it") as caught:
        read_json(tmp_path / "run.json", "the record of a run", "remove it")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    write_json(tmp_path / "run.json", {"a": 1})
    assert read_json(tmp_path / "run.json", "the record of a run", "remove it") == {"a": 1}


def test_permissions_are_those_asked_for(tmp_path):
    with atomic_write(tmp_path / "secret", mode=0o600) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_files_get_the_mode_that_the_umask_allows(tmp_path):
    """safetensors replaces the file that it is given by one of mode 600; a shared folder needs what the umask allows."""
    import torch
    from safetensors.torch import save_file

    from wavlm_lightning.encoder.checkpoints.tensor_files import write_tensors

    before = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a.safetensors") as temporary:
            save_file({"weight": torch.zeros(2)}, temporary)
        write_tensors(tmp_path / "b.safetensors", {"weight": torch.zeros(2)})
        os.umask(0o007)
        with atomic_write(tmp_path / "c.safetensors") as temporary:
            save_file({"weight": torch.zeros(2)}, temporary)
        write_json(tmp_path / "d.json", {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.safetensors": 0o644, "b.safetensors": 0o644, "c.safetensors": 0o660, "d.json": 0o660}
