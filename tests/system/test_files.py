"""Atomic writes, folder replacement and locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wavlm_lightning.system.files import (
    Busy,
    atomic_write,
    finish_replacing,
    locked,
    replace_folder,
    write_bytes,
    write_text,
)


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


def test_data_and_upstreams_import_without_fcntl():
    code = (
        "import sys; sys.modules['fcntl'] = None; import wavlm_lightning.data.writing, wavlm_lightning.upstreams.cache"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
