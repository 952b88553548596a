"""What a killed run left: who may delete it, what goes on, and by what a result is known to be of other files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.fit.head_runs import HeadRun, files_named, shards_named
from wavlm_lightning.workflows.fit.ownership import own_run_folder, resumption


def checkpoints(run: Path, *names: str) -> Path:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in names:
        (run / "checkpoints" / name).write_text("weights")
    return run


@pytest.mark.parametrize("newest", ["last.ckpt", "last.ckpt.old"])
def test_a_run_with_its_last_checkpoint_goes_on(tmp_path, newest):
    run = checkpoints(tmp_path / "run", "best.ckpt", newest)
    assert resumption(run) == ["--ckpt_path", "last"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", newest}


def test_a_run_without_begins_again_with_its_heads(tmp_path):
    run = checkpoints(tmp_path / "run", "best.ckpt")
    head = checkpoints(run / "rate-1", "best.ckpt")
    (head / "card.json").write_text("{}")
    assert resumption(run, [head]) == []
    assert not (run / "checkpoints").exists() and [path.name for path in head.iterdir()] == ["card.json"]
    assert resumption(tmp_path / "new") == [] and not (tmp_path / "new").exists()


def test_nothing_is_deleted_while_another_trains_there(tmp_path):
    run = checkpoints(tmp_path / "run", "best.ckpt")
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:  # another process: a lock is shared within one
        with own_run_folder(run):
            os.write(ready[1], b".")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(UserError, match="another `wavlm fit` trains there"):
        resumption(run)
    assert (run / "checkpoints" / "best.ckpt").exists()
    os.write(done[1], b".")
    os.waitpid(child, 0)
    assert resumption(run) == [] and not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    "content",
    [
        "checkpoints/best.ckpt",  # an average, or a head of a run of several
        "checkpoints/best.ckpt/meta.pt",
        "checkpoints/last.ckpt",
        "model.safetensors.index.json",
        "corpus.json",
    ],
)
@pytest.mark.parametrize("word", ["{}", "[{{corpus: {}}}]"])
def test_a_result_is_not_taken_for_that_of_other_files(tmp_path, content, word):
    file = tmp_path / "used" / content
    file.parent.mkdir(parents=True)
    file.write_text('{"of": 1}')
    run = HeadRun(tmp_path / "run", ["--model.x", word.format(tmp_path / "used")])
    run.begin()
    run.check()
    file.write_text('{"of": "another"}')
    with pytest.raises(UserError, match="a file it uses has changed"):
        run.check()


def test_the_record_of_an_older_version_stays_valid(tmp_path, monkeypatch):
    used = checkpoints(tmp_path / "used", "best.ckpt")
    run = HeadRun(tmp_path / "run", ["--model.x", str(used)])
    with monkeypatch.context() as older:
        older.setattr("wavlm_lightning.workflows.fit.head_runs.CONTENT", ("corpus.json",))
        run.begin()
    assert files_named(run.options)
    run.check()


def sharded(folder: Path, weights: str) -> Path:
    folder.mkdir(exist_ok=True)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_text(weights)
    return folder


def test_other_shards_behind_an_equal_index_are_noticed(tmp_path, monkeypatch):
    used = sharded(tmp_path / "used", "weights")
    run, older = (HeadRun(tmp_path / name, ["--model.x", str(used)]) for name in ("run", "older"))
    run.begin()
    run.check()
    with monkeypatch.context() as before:  # which knew the index alone
        before.setattr("wavlm_lightning.workflows.fit.head_runs.shards_named", lambda options: {})
        older.begin()
    older.check()
    sharded(used, "others of another size")
    older.check()
    with pytest.raises(UserError, match="a file it uses has changed"):
        run.check()


@pytest.mark.parametrize(
    "index", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {}}']
)
def test_an_index_of_something_else_has_no_shards(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert shards_named([str(tmp_path)]) == {}
