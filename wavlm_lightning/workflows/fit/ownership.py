"""Who trains in a run folder: the lock of a run, what a killed one left there, and whether a new one goes on or begins.

Imports nothing heavy: recipes and demos ask before they start a command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from wavlm_lightning.system.files import LOCK, finish_replacing, locked, sweep_leftovers
from wavlm_lightning.system.run_folder import BEST, LAST, can_resume, checkpoint

UNFINISHED = r".*\.ckpt\.(new|old)"  # in the folder of checkpoints: what a killed run was writing or replacing


def is_first_process() -> bool:
    """Whether this process is the first of those that a launcher (torchrun, Lightning, SLURM) started together.

    Asked of the environment, because Lightning's own answer is that of its import, which a forked process inherits.
    """
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


@contextlib.contextmanager
def own_run_folder(root: Path) -> Iterator[None]:
    """Lock a run folder while it is trained in, and remove what a killed run left unfinished there; on the first process only.

    Raises:
        Busy: another process trains there.
    """
    if not is_first_process():
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    busy = f"{root}: another `wavlm fit` trains there; wait for it, or choose another --trainer.default_root_dir"
    with locked(root / LOCK, busy, optional=True, temporary=True):
        sweep_leftovers(root)
        for folder in (root, *(each.parent for each in root.glob("*/checkpoints"))):
            for name in (LAST, BEST):
                finish_replacing(checkpoint(folder, name))
            sweep_leftovers(folder / "checkpoints", UNFINISHED)
        yield


def resumption(folder: Path, heads: Iterable[Path] = ()) -> list[str]:
    """Options with which `wavlm fit` goes on in a run folder, or begins there; none if there is no `last.ckpt`.

    A run that was killed before its first `last.ckpt` cannot be resumed; what it left is deleted, so that a new one may begin.

    Args:
        folder: of the run; it may not exist.
        heads: folders of its heads, if it has several.

    Raises:
        Busy: another process trains there; nothing is deleted.
    """
    newest = checkpoint(folder, LAST)
    if can_resume(folder):
        return ["--ckpt_path", LAST]
    if any((each / "checkpoints").is_dir() for each in (folder, *heads)):
        with own_run_folder(folder):
            if newest.exists():
                return ["--ckpt_path", LAST]
            for each in {folder, *heads}:
                shutil.rmtree(each / "checkpoints", ignore_errors=True)
    return []
