"""Train and test several heads in parallel processes, each with its own run folder and log."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.reports.cards import CARD_NAME, LIMITED, ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import sweep_leftovers, write_json
from wavlm_lightning.system.paths import is_file
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.run_folder import BEST, LAST, init_args, read_run_config
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.worker_pool import output_to, worker_pool
from wavlm_lightning.system.yaml_files import parse_yaml
from wavlm_lightning.workflows.fit.ownership import resumption

INDEX = ".index.json"  # ends the name of the file that says which shard holds which weights
# The file of a folder (corpus, run, sharded checkpoint, Hugging Face) that changes whenever its content does. An average, and a
# head of a run of several, have no `last.ckpt`.
CONTENT = (
    "corpus.json",
    *(f"checkpoints/{name}.ckpt{inside}" for name in (LAST, BEST) for inside in ("", "/meta.pt")),
    *(f"{name}{index}" for index in ("", INDEX) for name in ("model.safetensors", "pytorch_model.bin")),
)
RECORD = "run.json"  # in a run folder: the options of the run, and the state of every file that they name


@dataclass(frozen=True)
class HeadRun:
    """One head, or several heads that share a pass, from the configuration to the result cards."""

    folder: Path  # its run folder; the card of its own test there means that the run is done
    options: Sequence[str]  # of `wavlm fit` and `wavlm test`
    fits: bool = True  # False for a task with nothing to train
    heads: Sequence[str] = ()  # folders of several heads inside `folder`; each gets a card

    @property
    def results(self) -> list[Path]:
        """The folders that get a result card."""
        return [self.folder / head for head in self.heads] or [self.folder]

    @property
    def is_done(self) -> bool:
        return all(map(is_tested, self.results))

    def check(self) -> None:
        """Raise a `UserError` if the folder holds a run with other options, or one whose files have changed since."""
        record = self.folder / RECORD
        if record.is_file():
            remedy = f"remove the folder {self.folder}, and the run is made again"
            before = read_json(record, "the record of a run", remedy)
            if _comparable(before) != _comparable(_as_known(self._facts(), before)):
                raise UserError(
                    f"{self.folder} holds a run with other options, or a file it uses has changed since; choose another "
                    "output folder, or remove that one"
                )
        elif all((folder / CARD_NAME).is_file() for folder in self.results):
            raise UserError(f"{self.folder} holds a result that another command made; choose another output folder")

    def begin(self) -> None:
        """Make the folder and record the options in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(self.folder)
        write_json(self.folder / RECORD, self._facts())

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"options": list(self.options), "files": files_named(self.options)}
        return {**facts, "shards": shards} if (shards := shards_named(self.options)) else facts


def is_tested(run: Path) -> bool:
    """Whether a run folder has the card of a test on the run's own split.

    Of older versions, `wavlm test RUN --data.test_split OTHER` put another card in its place, and so did one with
    `limit_test_batches`.
    """
    if not (run / CARD_NAME).is_file():
        return False
    try:
        split, _, limited = ResultCard.read(run).corpus["split"].partition(LIMITED)
    except UserError:
        return True  # a damaged card is named where it is read
    config = read_run_config(run)
    data, trainer = config.get("data"), config.get("trainer")
    limit = trainer.get("limit_test_batches") if isinstance(trainer, dict) else None
    if limited != ("" if limit is None or (isinstance(limit, float) and limit == 1) else str(limit)):
        return False
    # Folds have names that the corpus alone knows, and a run without training has no configuration.
    named = isinstance(data, dict) and str(data.get("class_path")).rpartition(".")[2] == "TaskData"
    return not named or split == init_args(config, "data").get("test_split", "test")


def _as_known(facts: dict[str, Any], before: Any) -> dict[str, Any]:
    """Facts without the files that an older record does not name, because that version did not look into such folders."""
    if not isinstance(before, dict) or not isinstance(before.get("files"), dict):
        return facts
    known = {word: state for word, state in facts["files"].items() if word in before["files"]}
    return {
        name: known if name == "files" else each for name, each in facts.items() if name in before or name != "shards"
    }


def _comparable(facts: Any) -> Any:
    """A record whose options name random weights as older versions did: `base` for `random:base`."""
    from wavlm_lightning.upstreams.wavlm import (
        RANDOM,  # not above: processes set their threads before torch is imported
    )

    if not isinstance(facts, dict) or not isinstance(facts.get("options"), list):
        return facts
    return {**facts, "options": [str(word).removeprefix(RANDOM) for word in facts["options"]]}


def files_named(options: Sequence[str]) -> dict[str, list[object]]:
    """Files and folders among the words of a command, or inside lists and mappings there, with what tells a change."""
    return {word: state for given in options for word in _texts(given) if (state := _state(word))}


def shards_named(options: Sequence[str]) -> dict[str, list[list[object]]]:
    """Sharded weights among the words of a command: name, size and time of each file that their index names.

    The index itself, which `files_named` knows, is the same for all weights of one shape. Records of older versions lack this.
    """
    return {word: found for given in options for word in _texts(given) if (found := _shards(word))}


def _texts(word: str) -> list[str]:
    """The word, or the texts in it if it is a list or a mapping in YAML."""
    if not word.startswith(("[", "{")):
        return [word]
    try:
        waiting, found = [parse_yaml(word)], []
    except yaml.YAMLError:
        return [word]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            found.append(value)
    return found


def _state(word: str) -> list[object] | None:
    """A fingerprint of the file or folder that an option names; None if the word names no file."""
    path = _content(word)
    if not path.is_file():
        return None
    if path.suffix in (".json", ".yaml"):  # by content: they may be written anew without a change
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _content(word: str) -> Path:
    """The file that an option names, or that changes with the folder that it names."""
    path = Path(resolve_config(word))
    return next((path / inside for inside in CONTENT if (path / inside).is_file()), path)


def _shards(word: str) -> list[list[object]]:
    index = _content(word)
    if not index.name.endswith(INDEX) or not index.is_file():
        return []
    try:
        names = sorted({str(name) for name in read_json(index, "the index of sharded weights")["weight_map"].values()})
    except (UserError, LookupError, TypeError, AttributeError):
        return []  # of something else, or damaged, which is said where the weights are read
    found = [(name, index.parent / name) for name in names if is_file(index.parent / name)]
    return [[name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in found]


def run_heads(runs: Sequence[HeadRun], done: Callable[[HeadRun], object], processes: int = 2) -> None:
    """Train and test heads in parallel and call `done` after each; runs with a card are skipped, interrupted ones continue.

    `processes` runs at a time share the cores (two of one thread do more work than one of two) and take the GPUs in turn.
    A `UserError` if a folder holds another run (before any is started), or if runs failed (after all others have ended).
    """
    for run in runs:
        run.check()
    failures: list[str] = []
    with worker_pool(processes) as pool:
        futures = {pool.submit(_fit_and_test, run): run for run in runs}
        for future in as_completed(futures):
            try:
                future.result()
            except UserError as error:
                failures.append(str(error))
            done(futures[future])
    if failures:
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the others are done: {failures[0]}")


def _fit_and_test(run: HeadRun) -> None:
    if run.is_done:
        return
    run.begin()
    from wavlm_lightning.workflows.fit import fit, test

    options = [*run.options, "--trainer.default_root_dir", str(run.folder)]
    log = run.folder / "log.txt"
    with output_to(log):
        try:
            if run.fits:
                fit(*options, *resumption(run.folder, run.results))
            test(*options, *(["--ckpt_path", BEST] if run.fits else []))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{run.folder} failed ({error}); see {log}") from error
