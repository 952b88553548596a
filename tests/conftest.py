"""Shared fixtures: the tiny corpus, made once a session by the package itself."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from wavlm_lightning.system.user_modules import MARK

os.environ.setdefault("WANDB_MODE", "disabled")
# An image may ask for no bytecode. Then each worker rewrites the assertions of all test files again (8 s), and each process
# that a test starts compiles the package again (2 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads beyond that only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


DISTRIBUTED = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    # What is imported stays: the garbage collector would go through all of it (0.9 s) again and again, here and in tests.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long"):  # a long test is a slow one, so that `-m "not slow"` leaves it out
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def undurable() -> Iterator[None]:
    """Nothing waits for the disk, because no test takes the power away; what a killed process wrote is there all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """What a command leaves behind in this process must not reach the next test.

    That is the group of a distributed strategy, the folders beside YAML files, which it makes importable, and the W&B run
    of Lightning's own logger, which does not end and into which the next one would write.
    """
    before = {name: os.environ.get(name) for name in DISTRIBUTED}
    path = [*sys.path]
    yield
    added, sys.path[:] = set(sys.path) - set(path), path
    for name, module in [*sys.modules.items()] if added else []:  # 0.05 s with all that is imported
        if str(Path(getattr(module, "__file__", None) or "").parent) in {entry.removesuffix(MARK) for entry in added}:
            del sys.modules[name]
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish()
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools fork their processes from one that has imported torch, where a spawned one imports it again (4 s each).

    Arguments are pickled in both cases. The real method is used by `tiny` and by the slow tests of commands.
    """
    from multiprocessing import context

    from ranks import FORKS

    monkeypatch.setitem(context._concrete_contexts, "spawn", FORKS)  # what `get_context("spawn")` looks up


@pytest.fixture
def quick_commands(monkeypatch: pytest.MonkeyPatch, quick_processes: None) -> None:
    """The same for the stages of `wavlm demo` and `wavlm recipe`, which are commands; what they print is lost."""
    from types import SimpleNamespace

    from ranks import Command

    from wavlm_lightning.system import command

    monkeypatch.setattr(command, "subprocess", SimpleNamespace(Popen=Command))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of a report are drawn and not made into pixels and paths, which takes most of the time of a report."""
    from wavlm_lightning.reports import figures

    monkeypatch.setattr(figures, "save_png", lambda figure, path: path.touch())
    monkeypatch.setattr(figures, "to_svg", lambda figure, name, description: f'<svg aria-label="{name}"></svg>')


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with all tiny corpora; `pretrain` carries labels `mfcc100` of 20 clusters.

    All workers of pytest-xdist read the same folder, which the first of them makes. So no test may write into it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's own folder lies in that of the whole session
        root = root.parent
    folder, made = root / "tiny", root / "tiny.made"
    with FileLock(root / "tiny.lock"):
        if not made.exists():
            make_tiny(folder)
            made.touch()
    return folder


def make_tiny(folder: Path) -> None:
    from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.mini import DATASETS, prepare_mini

    prepare_mini(folder, "tiny", list(DATASETS), seed=0, workers=2, progress=False)
    corpus = Corpus.open(folder / "pretrain")
    codebook = fit_kmeans(corpus, MfccFeatures(level_normalised=True), 20, restarts=2)
    codebook.save(folder / "codebook")
    label_corpus(corpus, codebook, "mfcc100")
