"""The demo's heads: three tasks on three frozen upstreams, two at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from wavlm_lightning.errors import UserError

TASKS = ("pr", "ks", "sid")
UPSTREAMS: dict[str, str] = {"pre-trained": "pretrained", "random weights": "random", "FBANK": "fbank"}
"""What the report calls an upstream, and what its folders are called."""

LEARNING_RATES: dict[tuple[str, str], float] = {
    # Chosen on the validation split; the grids and their figures: experiments/demo_learning_rates.
    ("pr", "random weights"): 1.6e-2,
}
"""Where the rate of the task's YAML is not the best for an upstream (SUPERB tunes the rate per upstream, and only that)."""


@dataclass(frozen=True)
class Head:
    """One run: a task on an upstream.

    Attributes:
        task: name of its YAML in `configs/superb`.
        upstream: a key of `UPSTREAMS`.
        out: the demo's folder.
        steps: updates; those of the YAML if None.
    """

    task: str
    upstream: str
    out: Path
    steps: int | None = None

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / "heads" / f"{self.task}-{UPSTREAMS[self.upstream]}"

    def arguments(self, verb: str) -> list[str]:
        """What follows `wavlm` to fit or test it."""
        arguments = [verb, "-c", f"configs/superb/{self.task}.yaml"]
        if self.upstream == "FBANK":
            # CMVN makes all utterances alike after mean pooling (superb.md, section 7), so it is for PR only.
            cmvn = str(self.task == "pr").lower()
            arguments += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", cmvn]
        else:
            source = "tiny" if self.upstream == "random weights" else str(self.out / "pretrain")
            arguments += ["--model.upstream.source", source, "--model.upstream.label", self.upstream]
        if (self.task, self.upstream) in LEARNING_RATES:
            arguments += ["--model.learning_rate", str(LEARNING_RATES[self.task, self.upstream])]
        arguments += ["--data.corpus", str(self.out / "corpus" / self.task), "--data.cache", str(self.out / "cache")]
        arguments += ["--trainer.default_root_dir", str(self.folder)]
        if self.steps is not None:
            every = max(1, self.steps // 4)
            arguments += ["--trainer.max_steps", str(self.steps), "--trainer.val_check_interval", str(every)]
        return arguments


def all_heads(out: Path, steps: int | None = None) -> list[Head]:
    """Every task on every upstream, the slowest first so that two processes end together."""
    return [
        Head(task, upstream, out, steps) for task in TASKS for upstream in ("FBANK", "random weights", "pre-trained")
    ]


def run_heads(heads: list[Head], done: Callable[[], object], processes: int = 2) -> None:
    """Fit and test heads in parallel; one that has a card is left alone.

    Args:
        heads: what to run.
        done: is called after each.
        processes: how many at a time, one thread each: two runs of one thread do more work than one of two.

    Raises:
        UserError: a head failed; the message names its log.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        runs = {pool.submit(_fit_and_test, head): head for head in heads}
        try:
            for run in as_completed(runs):
                run.result()
                done()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _fit_and_test(head: Head) -> None:
    if (head.folder / "card.json").is_file():
        return
    # Without a card the run did not end; a head takes seconds, so it begins anew.
    shutil.rmtree(head.folder, ignore_errors=True)
    head.folder.mkdir(parents=True)
    from wavlm_lightning.cli import training

    log = head.folder / "log.txt"
    with _output_to(log):
        try:
            training.main(head.arguments("fit"))
            training.main([*head.arguments("test"), "--ckpt_path", "best"])
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{head.task} on {head.upstream} failed ({error}); see {log}") from error


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process' output to a file; by descriptor, because Lightning's loggers hold on to the old streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, saved in enumerate(kept, start=1):
                os.dup2(saved, target)
                os.close(saved)
