"""Bombs: objects that would execute, and names that would lead elsewhere, in every place that loads. Nothing goes off.

Each planted object makes the file `went-off` when it is unpickled; each test ends in one sentence (`UserError`, or the
`CheckpointError` that commands turn into one).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.remote.mirror import materialise
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.sharded_files import read_sharded, restricted_entries
from wavlm_lightning.encoder.checkpoints.tensor_files import read_pickle, read_tensors
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.upstreams.wavlm import load_encoder

SENTENCES = (UserError, CheckpointError)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    """A bomb that must not have gone off when the test ends."""
    made = Bomb(tmp_path / "went-off")
    yield made
    assert not Path(made.path).exists()


def as_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def as_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def as_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def as_object_array(value: object, path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


def as_joblib(value: object, path: Path) -> None:
    import joblib

    joblib.dump(value, path)


def as_zip_of_pickle(value: object, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value))
        file.writestr("archive/version", "3")


FORMS = [as_zip, as_legacy, as_pickle, as_object_array, as_joblib, as_zip_of_pickle]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "pytorch_model.bin", "model.safetensors", "a.pth"])
def test_no_form_of_file_executes(form, name, bomb, tmp_path):
    path = tmp_path / name
    form({"state_dict": {"weight": bomb}, "cfg": bomb}, path)
    for read in (read_tensors, load_encoder):
        with pytest.raises(SENTENCES) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    if path.suffix != ".safetensors":
        with pytest.raises(SENTENCES):
            read_pickle(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_codebook_executes_nothing(form, bomb, tmp_path):
    Codebook(np.ones((2, 3), "f4"), 50.0, {"kind": "mfcc"}, {}).save(tmp_path / "book")
    form(bomb, tmp_path / "book" / "centroids.safetensors")
    with pytest.raises(Exception):  # noqa: B017 - what matters is the fixture: nothing went off
        Codebook.load(tmp_path / "book")


# Sharded checkpoints.


def sharded(folder: Path, entry: object) -> None:
    """A sharded checkpoint with one weight and an entry that is not a tensor."""
    from torch.distributed.checkpoint import FileSystemWriter, save

    folder.mkdir()
    state = {"state_dict": {"weight": torch.ones(3)}, "optimizer_0": {"betas": entry}}
    save(state, storage_writer=FileSystemWriter(folder), no_dist=True)
    torch.save({"global_step": 1}, folder / "meta.pt")


def load_entry(folder: Path) -> object:
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader, load

    wanted = {"optimizer_0": {"betas": [0.0, 0.0]}}
    try:
        with restricted_entries(folder):
            load(wanted, storage_reader=FileSystemReader(folder), no_dist=True)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
    return wanted["optimizer_0"]["betas"]


def test_entries_of_a_sharded_checkpoint_are_plain_values(tmp_path, bomb):
    sharded(tmp_path / "whole", (0.9, 0.98))
    assert load_entry(tmp_path / "whole") == (0.9, 0.98)
    sharded(tmp_path / "armed", bomb)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        load_entry(tmp_path / "armed")
    assert torch.equal(read_sharded(tmp_path / "armed")["state_dict"]["weight"], torch.ones(3))


def test_the_index_of_a_sharded_checkpoint_names_files_beside_it_that_cover_each_weight(tmp_path):
    from dataclasses import replace

    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    sharded(tmp_path / "a", 1.0)
    path = tmp_path / "a" / ".metadata"
    index = pickle.loads(path.read_bytes())

    def changed(**parts: dict) -> None:
        path.write_bytes(pickle.dumps(replace(index, **parts)))
        read_sharded(tmp_path / "a")

    places = {key: replace(place, relative_path="../x.distcp") for key, place in index.storage_data.items()}
    with pytest.raises(CheckpointError, match="outside its folder"):
        changed(storage_data=places)
    weight = index.state_dict_metadata["state_dict.weight"]
    entries = {**index.state_dict_metadata, "state_dict.weight": replace(weight, chunks=[])}
    with pytest.raises(CheckpointError, match="not the whole of it"):
        changed(state_dict_metadata=entries)
    with pytest.raises(CheckpointError, match="something else than a tensor"):
        changed(state_dict_metadata={**entries, "state_dict.weight": BytesStorageMetadata()})


def test_resume_of_a_sharded_run_executes_nothing(tiny, tmp_path, bomb, capsys):
    words = [
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        "--data.corpus",
        str(tiny / "pretrain"),
        "--data.batch_seconds",
        "4",
    ]
    words += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.precision",
        "32-true",
        "--threads",
        "1",
    ]
    words += [
        "--trainer.limit_val_batches",
        "0",
        "--model.encoder_overrides.layers",
        "1",
        "--trainer.strategy",
        "fsdp2",
    ]
    words += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert main([*words, "--trainer.max_steps", "1"]) == 0
    folder = tmp_path / "run" / "checkpoints" / "last.ckpt"
    index = pickle.loads((folder / ".metadata").read_bytes())
    # Every entry that is not a tensor points to a bomb at the end of its file.
    content = io.BytesIO()
    torch.save(bomb, content)
    armed = 0
    for key, place in index.storage_data.items():
        if type(index.state_dict_metadata[key.fqn]).__name__ == "BytesStorageMetadata":
            file = folder / place.relative_path
            place.offset, place.length = file.stat().st_size, len(content.getvalue())
            file.write_bytes(file.read_bytes() + content.getvalue())
            armed += 1
    assert armed
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    (folder / "sha256.json").unlink()  # who plants a bomb leaves out what would betray it
    capsys.readouterr()
    assert main([*words, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("wavlm fit: resume: ") and "more than tensors and plain values" in said


# Names in a corpus.


BAD = [
    "..",
    ".",
    "",
    "../x",
    "../../escaped",
    "/tmp/x",
    "a/b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:\\x",
    "\\\\host\\x",
    "a\0b",
    "a\nb",
    "-rf",
    ".hidden",
    "~x",
    "x/",
    "a:b",
    "a\u2215b/..",
    "a\u202eb",
    "x" * 181,
    "é" * 100,
    "a ",
    "a.",
    None,
    3,
    ["a"],
]


@pytest.mark.parametrize("name", BAD)
def test_names_that_are_not_plain(name, tmp_path):
    with pytest.raises(UserError) as caught:
        plain_name(name, "corpus.json:", "do not trust this corpus")
    said = str(caught.value)
    assert len(said) < 250 and said.isprintable()


@pytest.mark.parametrize(
    "name", ["train", "train-clean-100", "fold2", "dev_other", "test.part 2", "überall", "a+b", "1"]
)
def test_names_that_are_plain(name):
    assert plain_name(name, "", "") == name


def small_corpus(folder: Path) -> dict:
    writer = CorpusWriter(folder, "small", "CC0", {})
    writer.write_split("train", [Utterance("a", np.full(1600, 0.1, "f4"), {"speaker": "s"})])
    writer.finish({"speakers": ["s"]}, {"train": [(1, "a", "a")]})
    return json.loads((folder / "corpus.json").read_text())


def plant(body: dict, field: str, name: object) -> None:
    part = body["splits"]["train"]
    if field == "split":
        body["splits"][name if isinstance(name, str) else str(name)] = body["splits"].pop("train")
    elif field == "shard":
        part["shards"][0]["name"] = name
    elif field == "lengths":
        part["lengths"]["name"] = name
    elif field == "unknown":
        part["alignments"] = {"name": name, "bytes": 4, "sha256": "0" * 64}
    elif field == "unknown, deep":
        part["shards"][0]["more"] = [{"x": {"name": name}}]


@pytest.mark.parametrize("field", ["split", "shard", "lengths", "unknown", "unknown, deep"])
@pytest.mark.parametrize(
    "name", ["../../escaped.npy", "/abs.tar", "a\\..\\b.tar", "C:evil.npy", "x\0.tar", "y" * 300, "..", ""]
)
def test_no_field_of_a_corpus_leads_out_of_its_folder(field, name, tmp_path):
    body = small_corpus(tmp_path / "in" / "c")
    plant(body, field, name)
    (tmp_path / "in" / "c" / "corpus.json").write_text(json.dumps(body))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"corpus\.json: contains") as caught:
        Corpus.open(tmp_path / "in" / "c")
    assert "\n" not in str(caught.value)
    assert main(["data", "permute", str(tmp_path / "in" / "c"), "--out", str(tmp_path / "out" / "p")]) == 2
    assert [path for path in sorted(tmp_path.rglob("*")) if "out" not in path.parts] == before
    assert not list(tmp_path.glob("out/*escaped*"))


@pytest.mark.parametrize(
    ("field", "name"), [("shard", "remote.json"), ("lengths", "corpus.json"), ("lengths", "x.pth")]
)
def test_a_corpus_lists_files_of_its_kinds_only(field, name, tmp_path):
    body = small_corpus(tmp_path / "c")
    plant(body, field, name)
    with pytest.raises(UserError, match="a name that ends with"):
        Corpus(tmp_path / "c", body)


@pytest.mark.parametrize("sha256", [None, "", "abc", 3, "Z" * 64])
def test_a_file_without_a_hash_is_refused(sha256, tmp_path):
    body = small_corpus(tmp_path / "c")
    body["splits"]["train"]["shards"][0]["sha256"] = sha256
    with pytest.raises(UserError, match="has no sha256"):
        Corpus(tmp_path / "c", body)


@pytest.mark.parametrize("split", ["../escaped", "/tmp/escaped", "a/b", ".."])
def test_writers_refuse_the_name_of_a_split(split, tmp_path):
    writer = CorpusWriter(tmp_path / "c", "c", "CC0", {})
    with pytest.raises(UserError, match="give that split another name"):
        writer.write_split(split, [Utterance("a", np.full(1600, 0.1, "f4"), {})])
    assert [path.name for path in tmp_path.rglob("*")] == ["c"]


def test_a_manifest_cannot_name_a_split_elsewhere(tmp_path, capsys):
    import soundfile

    (tmp_path / "rec").mkdir()
    soundfile.write(tmp_path / "rec" / "a.wav", np.sin(np.arange(8000) / 9) / 3, 16000)
    (tmp_path / "rec" / "m.csv").write_text("path,speaker,split\na.wav,s,../../escaped\n")
    words = [
        "prepare",
        "folder",
        str(tmp_path / "rec"),
        "--manifest",
        str(tmp_path / "rec" / "m.csv"),
        "--workers",
        "1",
    ]
    assert main([*words, "--out", str(tmp_path / "x" / "out")]) == 0  # names of a manifest are made plain
    assert not [path for path in tmp_path.rglob("*escaped*") if path.parent != tmp_path / "x" / "out"]
    assert "/" not in "".join(Corpus.open(tmp_path / "x" / "out").splits)


@pytest.mark.parametrize("link", ["folder", "file"])
def test_links_in_a_mirror_are_not_followed(link, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    folder, elsewhere = tmp_path / "cache" / "corpora" / "m", tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.mkdir(parents=True)
    (folder / "remote.json").write_text(json.dumps({"url": "http://127.0.0.1:9/c/"}))
    if link == "folder":
        (folder / "labels").symlink_to(elsewhere)
        path = folder / "labels" / "x.npy"
    else:
        (folder / "x.npy").symlink_to(elsewhere / "x.npy")
        path = folder / "x.npy"
    with pytest.raises(UserError, match="a link in the mirror"):
        materialise(path, {"bytes": 4, "sha256": "0" * 64})
    with pytest.raises(UserError, match="not a plain file name"):
        materialise(folder / ".." / "x.npy", {"bytes": 4, "sha256": "0" * 64})
    assert not list(elsewhere.iterdir())


def test_lengths_are_never_unpickled(tmp_path, bomb):
    body = small_corpus(tmp_path / "c")
    path = tmp_path / "c" / "train.lengths.npy"
    as_object_array(bomb, path)
    data = path.read_bytes()
    body["splits"]["train"]["lengths"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with pytest.raises((UserError, ValueError)):
        Corpus(tmp_path / "c", body).split("train").samples  # noqa: B018


# YAML and the working directory.


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [%s]", "!!python/name:os.mkdir", "!!python/module:os"])
def test_yaml_tags_execute_nothing(tag, tmp_path, bomb, capsys):
    text = tag.replace("%s", bomb.path)
    (tmp_path / "a.yaml").write_text(f"model: {text}\n")
    assert main(["fit", "-c", str(tmp_path / "a.yaml")]) == 2
    assert "Traceback" not in capsys.readouterr().err


PLANTED = """
from pathlib import Path
Path(%r).mkdir()
"""
LIBRARIES = [
    "csv",
    "json",
    "soundfile",
    "tqdm",
    "yaml",
    "numpy",
    "torch",
    "litlogger",
    "wandb",
    "sitecustomize",
    "usercustomize",
]
HEAD = """
import my_losses
from wavlm_lightning.tasks import UtteranceClassification

class OwnKeywords(UtteranceClassification):
    name, inventory, field = "OWN", "keywords", my_losses.FIELD
"""


def folder_of_traps(folder: Path, went_off: Path) -> None:
    folder.mkdir()
    for name in LIBRARIES:
        (folder / f"{name}.py").write_text(PLANTED % str(went_off))
    (folder / "trap.py").write_text(PLANTED % str(went_off) + "\ndef make(*_):\n    return []\n")
    information = folder / "trap-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: trap\nVersion: 1.0\n")
    groups = ("lightning.pytorch.callbacks_factory", "wavlm_lightning.tasks", "wavlm_lightning.corpora")
    (information / "entry_points.txt").write_text("".join(f"[{group}]\nTrap = trap:make\n" for group in groups))
    (folder / "my_heads.py").write_text(HEAD)
    (folder / "my_losses.py").write_text('FIELD = "keyword"\n')


def command(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`wavlm` in a folder, as its own process."""
    script = "import sys; from wavlm_lightning.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.long
def test_the_working_directory_hides_no_library_and_gives_the_heads_that_are_named(tiny, tmp_path):
    folder, went_off = tmp_path / "work", tmp_path / "went-off"
    folder_of_traps(folder, went_off)
    checked = command(folder, "data", "check", str(tiny / "ks"))
    assert checked.returncode == 0, checked.stderr
    # Labels are made in spawned processes, which begin with the working directory on their path unless told otherwise.
    made = command(folder, "prepare", "mini", "--size", "tiny", "--datasets", "ks", "--out", "mini", "--workers", "2")
    assert made.returncode == 0, made.stderr
    words = ["fit", "--model", "my_heads.OwnKeywords", "--model.upstream", "Fbank", "--data", "TaskData"]
    words += [
        "--data.corpus",
        str(tiny / "ks"),
        "--data.cache",
        "null",
        "--trainer.max_steps",
        "2",
        "--data.num_workers",
        "1",
    ]
    words += [
        "--trainer.accelerator",
        "cpu",
        "--data.batch_size",
        "8",
        "--trainer.val_check_interval",
        "1",
        "--trainer.default_root_dir",
        "run",
    ]
    fitted = command(folder, *words)
    assert fitted.returncode == 0, fitted.stderr
    recording = tmp_path / "a.wav"
    import soundfile

    soundfile.write(recording, np.sin(np.arange(16000) / 9) / 3, 16000)
    predicted = command(folder, "predict", "run", str(recording), "--json")
    assert predicted.returncode == 0 and "keyword" in predicted.stdout, predicted.stderr
    # Beside a YAML, from elsewhere.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "run" / "config.yaml", folder / "own.yaml")
    again = command(elsewhere, "fit", "-c", str(folder / "own.yaml"), "--trainer.default_root_dir", "run")
    assert again.returncode == 0, again.stderr
    assert not went_off.exists()


SPAWNED = """
import multiprocessing, sys
from pathlib import Path
from wavlm_lightning.system.plugins import import_by_path
from wavlm_lightning.system.worker_pool import in_order

def main():
    opener = import_by_path("my_worker.opener")
    print(list(in_order(opener, [1, 2], 2, one_thread_each=False)))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_users_module_is_found_in_spawned_processes(tmp_path):
    folder_of_traps(tmp_path / "work", tmp_path / "went-off")
    (tmp_path / "work" / "my_worker.py").write_text(
        "import my_losses\ndef double(task):\n    return my_losses.FIELD * task\ndef opener(device):\n    return double\n"
    )
    script = tmp_path / "start.py"
    script.write_text(SPAWNED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.strip() == "['keyword', 'keywordkeyword']", done.stderr
    assert not (tmp_path / "went-off").exists()


def test_class_paths_open_a_folder_behind_everything_else(tmp_path, monkeypatch):
    from importlib import metadata

    from wavlm_lightning.system.plugins import import_by_path, make_importable
    from wavlm_lightning.system.user_modules import MARK

    folder_of_traps(tmp_path / "work", tmp_path / "went-off")
    monkeypatch.chdir(tmp_path / "work")
    before = [*sys.path]
    make_importable(["fit", "--data.corpus", "csv.reader", "--trainer.max_steps", "1", "json.Nothing", "own.yaml"])
    assert sys.path == before  # nothing that is only here was named
    make_importable(["fit", "--model", "my_heads.OwnKeywords"])
    assert sys.path == [*before, f"{tmp_path / 'work'}{MARK}"]
    assert import_by_path("my_losses.FIELD") == "keyword"
    assert "trap" not in {distribution.name for distribution in metadata.distributions()}
    assert not metadata.entry_points(name="Trap")
    assert not (tmp_path / "went-off").exists()


def test_a_module_beside_a_yaml_that_another_yaml_names(tmp_path, monkeypatch):
    from wavlm_lightning.system.plugins import make_importable
    from wavlm_lightning.system.user_modules import MARK

    folder_of_traps(tmp_path / "work", tmp_path / "went-off")
    (tmp_path / "work" / "root.yaml").write_text("model: inner.yaml\n")
    (tmp_path / "work" / "inner.yaml").write_text("class_path: my_heads.OwnKeywords\n")
    before = [*sys.path]
    make_importable(["fit", f"--config={tmp_path / 'work' / 'root.yaml'}"])
    assert sys.path == [*before, f"{tmp_path / 'work'}{MARK}"]


def test_safetensors_names_are_only_names(tmp_path):
    save_file(
        {"__reduce__": torch.ones(1), "../../x": torch.ones(1), "a\0b": torch.ones(1)}, tmp_path / "a.safetensors"
    )
    assert len(read_tensors(tmp_path / "a.safetensors")) == 3
    with pytest.raises(SENTENCES):
        load_encoder(tmp_path / "a.safetensors")
