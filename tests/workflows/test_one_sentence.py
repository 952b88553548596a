"""Whatever a named file holds, and wherever a command is to write: one sentence with the file and a remedy, no traceback."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from small_cards import ks_card
from torch.utils.data import _utils

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.labels import LabelSet, label_head
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.lengths import Lengths
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import CheckpointError, WavLM, WavLMConfig
from wavlm_lightning.pretraining.head_file import read_head
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.reports.examples import read_examples
from wavlm_lightning.reports.runs.report import _stages
from wavlm_lightning.system.errors import LONGEST, UserError
from wavlm_lightning.system.ledger import Ledger
from wavlm_lightning.system.run_folder import require_run_config
from wavlm_lightning.upstreams.run_checkpoints import read_run_checkpoint
from wavlm_lightning.upstreams.specs import resolve
from wavlm_lightning.upstreams.wavlm import load_encoder
from wavlm_lightning.workflows.fit.joint_heads import read_also, take_lists
from wavlm_lightning.workflows.recipe.chain import chain
from wavlm_lightning.workflows.sweep.file import read_sweep

SMALL = {"conv_channels": (16,) * 7, "dim": 32, "ffn_dim": 64, "layers": 1, "heads": 2, "pos_conv_kernel": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind that the package reads."""
    root = tmp_path_factory.mktemp("world")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 16000)).astype("f4")
    writer = CorpusWriter(root / "corpus", "c", "CC0", {"recipe": "mine"})
    writer.write_split("train", [Utterance(f"u{n}", noise[n], {"speaker": "s", "text": "a"}) for n in range(2)])
    corpus = writer.finish({"speakers": ["s"]}, {"train": [(1, "u0", "u1")]})
    book = Codebook(np.eye(3, 39, dtype="f4"), 100.0, {"kind": "mfcc"}, {"seed": 0})
    book.save(root / "codebook")
    labels = root / "corpus/labels/x"
    labels.mkdir(parents=True)
    (labels / "labels.json").write_text(json.dumps({"codebook_sha256": book.sha256, "size": 3, "rate": 100.0}))
    meta = {"codebook_sha256": book.sha256, "shard_sha256": corpus.split("train").shards[0].sha256, "rate": "100.0"}
    starts = np.array([0, 98, 196], dtype="i8")
    save_file({"labels": np.zeros(196, "u2"), "starts": starts}, labels / "train-000000.safetensors", meta)
    torch.manual_seed(0)
    encoder = WavLM(WavLMConfig.preset("tiny", **SMALL))
    encoder.save_pretrained(root / "hf")
    torch.save(
        {
            "wavlm_config": encoder.config.to_dict(),
            "state_dict": {f"encoder.{k}": v for k, v in encoder.state_dict().items()},
        },
        root / "run.ckpt",
    )
    (root / "metrics.csv").write_text("step,epoch,loss\n1,0,3.5\n2,0,3.0\n")
    (root / "run").mkdir()
    (root / "run/config.yaml").write_text("model:\n  class_path: wavlm_lightning.tasks.KeywordSpotting\n")
    (root / "stages.json").write_text(json.dumps({"settings": {}, "seconds": {"corpus": 1.5}, "done": ["corpus"]}))
    (root / "head").mkdir()
    save_file({"x": np.zeros(1, "f4")}, root / "head/pretraining_head.safetensors")
    (root / "head/pretraining_head.json").write_text(json.dumps({"codebooks": {"x": {"size": 3, "sha256": "ab"}}}))
    (root / "examples").mkdir()
    (root / "examples/examples.json").write_text(json.dumps({"format": "wavlm_lightning/examples/1", "examples": []}))
    ks_card().write(root / "card.json")
    (root / "task.yaml").write_text("model:\n  class_path: KeywordSpotting\n")
    (root / "sweep.yaml").write_text(
        "method: grid\nmetric: {name: valid/loss, goal: minimize}\nparameters: {model.learning_rate: {values: [1.0e-3]}}\n"
    )
    (root / "recipe.yaml").write_text("recipe: {hours: 10, gpus: 8, gpu: a100, codebook: {clusters: 100}}\n")
    return root


def trials_of(root: Path) -> Any:
    return Corpus.open(root / "corpus").trials("train")


def shard_of(root: Path) -> Any:
    shard = Corpus.open(root / "corpus").split("train").shards[0]
    type(shard).open(shard.path)  # reads the index, which is otherwise kept in memory
    return shard


def labels_of(root: Path) -> Any:
    return LabelSet.open(Corpus.open(root / "corpus"), "x", "train").rows[1]


def lengths_of(root: Path) -> Any:
    import hashlib

    path = root / "corpus/train.lengths.npy"
    return Lengths(path, 2, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()).read()


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # what is read -> its file, and a call that reads it
    "corpus.json": ("corpus/corpus.json", lambda root: Corpus.open(root / "corpus").split("train")),
    "index": ("corpus/train-000000.index.json", shard_of),
    "trials": ("corpus/trials-train.csv", trials_of),
    "lengths": ("corpus/train.lengths.npy", lengths_of),
    "codebook.json": ("codebook/codebook.json", lambda root: Codebook.load(root / "codebook")),
    "centroids": ("codebook/centroids.safetensors", lambda root: Codebook.load(root / "codebook")),
    "labels.json": ("corpus/labels/x/labels.json", lambda root: label_head(Corpus.open(root / "corpus"), "x")),
    "labels": ("corpus/labels/x/train-000000.safetensors", labels_of),
    "card": ("card.json", lambda root: ResultCard.read(root / "card.json")),
    "curves": ("metrics.csv", lambda root: read_curves([root / "metrics.csv"])),
    "examples": ("examples/examples.json", lambda root: read_examples(root)),
    "run configuration": ("run/config.yaml", lambda root: require_run_config(root / "run")),
    "a task's configuration": ("task.yaml", lambda root: read_also([str(root / "task.yaml")])),
    "a list of heads": ("task.yaml", lambda root: take_lists(["fit", "-c", str(root / "task.yaml")])),
    "sweep": ("sweep.yaml", lambda root: read_sweep(str(root / "sweep.yaml"))),
    "recipe": ("recipe.yaml", lambda root: chain(str(root / "recipe.yaml"))),
    "stages": ("stages.json", lambda root: _stages([root])),
    "ledger": ("stages.json", lambda root: Ledger(root / "stages.json", {}, "demo")),
    "head weights": ("head/pretraining_head.safetensors", lambda root: read_head(root / "head")),
    "head description": ("head/pretraining_head.json", lambda root: read_head(root / "head")),
    "hf config": ("hf/config.json", lambda root: load_encoder(root / "hf")),
    "hf preprocessor": ("hf/preprocessor_config.json", lambda root: load_encoder(root / "hf")),
    "hf weights": ("hf/model.safetensors", lambda root: load_encoder(root / "hf")),
    "hf model type": ("hf/config.json", lambda root: resolve(str(root / "hf"))),
    "checkpoint": ("run.ckpt", lambda root: read_run_checkpoint(root / "run.ckpt")),
    "encoder": ("run.ckpt", lambda root: load_encoder(root / "run.ckpt")),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "latin-1": lambda content: content + b"\n# caf\xe9\n",
    "utf-16": lambda content: "step,\u00e9\n1,2\n".encode("utf-16"),
    "a list": lambda content: b"[1, 2]",
    "null": lambda content: b"null",
    "an empty object": lambda content: b"{}",
    "deep": lambda content: b"[" * 100_000,
    "digits": lambda content: b'{"a": ' + b"1" * 5000 + b"}",
    "a long line": lambda content: b'{"format": "' + b"x" * 100_000 + b'"}',
    "tags": lambda content: content + b"\nx: !!python/module:os\ny: !!timestamp x\n",
    "a page": lambda content: b"<!DOCTYPE html>\n<html>\n<body>404: not found</body></html>\n",
}
# What may be read after such damage: the file still says what is needed, or its absence has a meaning.
HARMLESS = {
    ("lengths", "latin-1"),  # bytes behind the array; the hash in corpus.json tells
    ("lengths", "tags"),
    ("checkpoint", "latin-1"),  # bytes behind a zip archive
    ("checkpoint", "tags"),
    ("encoder", "latin-1"),
    ("encoder", "tags"),
    ("curves", "empty"),
    ("curves", "half"),
    ("stages", "an empty object"),
    ("stages", "a long line"),
    ("hf preprocessor", "an empty object"),
    ("hf preprocessor", "a long line"),
    ("hf model type", "an empty object"),
    ("hf model type", "a long line"),
    ("a list of heads", "deep"),  # the parser of options says it
    ("a list of heads", "digits"),
    ("a list of heads", "tags"),
    ("a list of heads", "null"),
    ("a list of heads", "empty"),
    ("a list of heads", "a list"),
    ("a list of heads", "an empty object"),
    ("a list of heads", "a long line"),
    ("a list of heads", "a page"),
    ("run configuration", "an empty object"),
    ("run configuration", "a long line"),
    ("run configuration", "half"),
    ("a task's configuration", "half"),
    ("a list of heads", "half"),
    ("sweep", "half"),
}


def sentence(error: BaseException, name: str) -> None:
    said = str(error)
    assert name in said, said
    assert "\n" not in said and len(said) <= LONGEST, said
    assert "Traceback" not in said


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named(world, tmp_path, reader, damage):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    name, read = READERS[reader]
    read(root)  # whole, it is read
    path = root / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    try:
        read(root)
    except (UserError, CheckpointError) as error:
        sentence(error, path.parent.name if reader in ("examples",) else path.stem.split(".")[0])
    else:
        assert (reader, damage) in HARMLESS


JSON_KINDS = [reader for reader, (name, _) in READERS.items() if name.endswith(".json")]
VALUES: list[Any] = [None, "x", -1, 1.5, True, float("nan"), 10**30, [], {}, ["x"], [[1]], {"a": None}]


def changes(content: Any, where: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every place of a JSON value, with everything that is put there."""
    if where:
        yield from ((where, value) for value in VALUES)
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in parts:
        yield from changes(value, (*where, key))


def changed(content: Any, where: tuple, value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    place = copy
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return copy


def without(content: Any, where: tuple) -> Any:
    copy = json.loads(json.dumps(content))
    place = copy
    for key in where[:-1]:
        place = place[key]
    del place[where[-1]]
    return copy


@pytest.mark.parametrize("reader", JSON_KINDS)
def test_a_value_of_another_type_or_none_is_a_sentence_or_harmless(world, tmp_path, reader):
    """Each value of each JSON kind is replaced and left out; nothing but a sentence may come of it."""
    root = Path(shutil.copytree(world, tmp_path / "w"))
    name, read = READERS[reader]
    path = root / name
    content = json.loads(path.read_text())
    places = list(changes(content))
    trials = [changed(content, where, value) for where, value in places]
    trials += [without(content, where) for where in dict.fromkeys(where for where, _ in places)]
    refused = 0
    for trial in trials:
        path.write_text(json.dumps(trial))
        try:
            read(root)
        except (UserError, CheckpointError) as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) <= LONGEST
    assert refused > 0 or not trials or reader == "hf model type"


def test_metadata_and_audio_that_are_damaged_in_a_shard_are_named(world, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    shard = Corpus.open(root / "corpus").split("train").shards[0]
    content = bytearray(shard.path.read_bytes())
    offset, size = shard.members.info[1]
    content[offset : offset + size] = b"{" * size
    offset, size = shard.members.audio[0]
    content[offset + 100 : offset + size] = bytes(size - 100)
    shard.path.write_bytes(content)
    shard = Corpus.open(root / "corpus").split("train").shards[0]
    with pytest.raises(UserError, match=r"train-000000\.tar: u1\.json in it is no JSON"):
        shard.meta(1)
    with pytest.raises(UserError, match=r"train-000000\.tar: utterance 'u0'"):
        shard.waveform(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_audio_in_training_is_a_sentence_with_shard_and_key(tiny, tmp_path, capsys, monkeypatch, workers):
    corpus = Path(shutil.copytree(tiny / "ks", tmp_path / "ks"))
    shard = Corpus.open(corpus).split("train").shards[0]
    content = bytearray(shard.path.read_bytes())
    for offset, size in shard.members.audio:
        content[offset + 60 : offset + size] = bytes(size - 60)
    shard.path.write_bytes(content)
    options = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank"]
    options += ["--data.corpus", str(corpus), "--data.cache", "null", "--data.num_workers", str(workers)]
    options += ["--trainer.max_steps", "1", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *options, "--trainer.accelerator", "cpu"]) == 2
    # The error holds the readers; once they are collected torch waits for a process that nothing tells to end, five seconds.
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    gc.collect()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("wavlm fit: ") and f"{shard.path}: utterance '" in said and "cannot be decoded" in said
    assert "Traceback" not in said and "Caught" not in said


VERBS: dict[str, Callable[[Path, Path], list[str]]] = {  # verb -> words of a command that is to write to a folder
    "prepare mini": lambda root, out: ["prepare", "mini", "--size", "tiny", "--out", str(out)],
    "prepare folder": lambda root, out: ["prepare", "folder", str(root), "--out", str(out)],
    "prepare librispeech": lambda root, out: ["prepare", "librispeech", str(root), "--out", str(out)],
    "data permute": lambda root, out: ["data", "permute", str(root / "corpus"), "--out", str(out)],
    "codebook fit": lambda root, out: ["codebook", "fit", str(root / "corpus"), "--out", str(out)],
    "recipe": lambda root, out: ["recipe", "wavlm_base", "--corpus", str(root / "corpus"), "--out", str(out)],
    "demo": lambda root, out: ["demo", "--out", str(out)],
    "predict": lambda root, out: ["predict", str(root / "run"), str(root), "--out", str(out)],
    "average": lambda root, out: ["average", str(root / "run"), "--out", str(out)],
    "export": lambda root, out: ["export", str(root / "run.ckpt"), str(out)],
    "sweep": lambda root, out: ["sweep", str(root / "sweep.yaml"), "--output", str(out)],
    "superb": lambda root, out: ["superb", "fbank", "--data", "mini", "--output", str(out)],
    "report": lambda root, out: ["report", str(root), "-o", str(out)],
    "plan": lambda root, out: ["plan", "wavlm_base", "--cluster", "slurm", "--out", str(out)],
    "bench": lambda root, out: ["bench", "tiny", "--json", str(out / "figures.json")],
    "fit": lambda root, out: ["fit", "-c", "configs/superb/mini/ks.yaml", "--trainer.default_root_dir", str(out)],
    "test": lambda root, out: ["test", "-c", "configs/superb/mini/ks.yaml", "--trainer.default_root_dir", str(out)],
}
PLACES: dict[str, Callable[[Path], Path]] = {
    "a file": lambda root: root / "metrics.csv",
    "below a file": lambda root: root / "metrics.csv" / "a" / "b",
    "no such system": lambda root: Path("/proc/wavlm/out"),  # takes no folder, not even from root
    "a name too long": lambda root: root / ("x" * 300) / "out",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_takes_no_files_is_refused_before_any_work(world, capsys, monkeypatch, verb, place):
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(Corpus, "split", work)
    monkeypatch.setattr("wavlm_lightning.system.command.wavlm", work)
    before = sorted(world.rglob("*"))
    words = VERBS[verb](world, PLACES[place](world))
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"wavlm {words[0]}: ") and "cannot be written" in said[0], said
    assert sorted(world.rglob("*")) == before


def test_a_folder_of_templates_that_takes_no_files(tmp_path, monkeypatch):
    from wavlm_lightning.workflows.new import write_template

    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_template("task", "my_own", tmp_path / "file")


def test_a_run_configuration_is_what_yaml_says(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": 3}}))
    from wavlm_lightning.system.run_folder import init_args

    assert init_args(require_run_config(tmp_path), "model") == {}
