"""Fit and test many heads in parallel processes, each in its run folder with a log of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from wavlm_lightning.reports.cards import CARD_NAME
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.worker_pool import output_to, worker_pool

RECORD = "run.json"
"""File in a run folder with the options it was begun with and the state of every file they name."""


@dataclass(frozen=True)
class HeadRun:
    """One head, or several heads of one run, from the configuration to the result cards.

    Attributes:
        folder: run folder; the run is done when `card.json` is there.
        options: options of `wavlm fit` and `wavlm test`.
        fits: False for a task without training.
        heads: names of the heads' folders inside the run folder, which hold the cards instead; empty for one head.
    """

    folder: Path
    options: Sequence[str]
    fits: bool = True
    heads: Sequence[str] = ()

    @property
    def results(self) -> list[Path]:
        """The folders that get a result card."""
        return [self.folder / head for head in self.heads] or [self.folder]

    @property
    def is_done(self) -> bool:
        """Whether all result cards are there."""
        return all((folder / CARD_NAME).is_file() for folder in self.results)

    def check(self) -> None:
        """Make sure that the folder is empty or holds this run.

        Raises:
            UserError: it holds a run with other options, or of files that have changed since.
        """
        record = self.folder / RECORD
        if record.is_file():
            if json.loads(record.read_text()) != self._facts():
                raise UserError(
                    f"{self.folder} holds a run with other options, or of files that have changed since; choose another "
                    "output folder, or remove that one"
                )
        elif self.is_done:
            raise UserError(f"{self.folder} holds a result of something else; choose another output folder")

    def begin(self) -> None:
        """Write `run.json`, which `check` reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RECORD).write_text(json.dumps(self._facts(), indent=1))

    def _facts(self) -> dict[str, object]:
        return {
            "options": list(self.options),
            "files": {word: state for word in self.options if (state := _state(word))},
        }


def _state(word: str) -> list[object] | None:
    """Size and time, or hash, of the file or folder that an option names; None if the option does not name one."""
    path = Path(resolve_config(word))
    for inside in (
        "corpus.json",
        "checkpoints/last.ckpt",
        "checkpoints/last.ckpt/meta.pt",
        "model.safetensors",
        "pytorch_model.bin",
    ):
        if (path / inside).is_file():
            path = path / inside
            break
    if not path.is_file():
        return None
    if path.suffix in (".json", ".yaml"):
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    return [path.stat().st_size, path.stat().st_mtime_ns]


def run_heads(runs: Sequence[HeadRun], done: Callable[[HeadRun], object], processes: int = 2) -> None:
    """Fit and test heads in parallel. A run with its cards is skipped; an interrupted run is resumed.

    Args:
        runs: the runs.
        done: is called after each run.
        processes: number at a time; they share the cores (two runs of one thread do more work than one of two), and
            take the GPUs in turn.

    Raises:
        UserError: a folder holds another run (before the first is begun), or runs failed (after all others have ended).
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
                newest = checkpoint(run.folder, LAST)
                if not newest.is_file():  # killed before the first last.ckpt: other checkpoints cannot be resumed
                    for folder in {run.folder, *run.results}:
                        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                fit(*options, *(["--ckpt_path", LAST] if newest.is_file() else []))
            test(*options, *(["--ckpt_path", BEST] if run.fits else []))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{run.folder} failed ({error}); see {log}") from error
