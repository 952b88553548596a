"""A run as the source of `wavlm test RUN` and `wavlm validate RUN`: its configuration, its best checkpoint, its folder.

`wavlm test RUN --data.num_workers 4` stands for `wavlm test -c RUN/config.yaml --data.num_workers 4` with the run folder and
`--ckpt_path best` behind it. What is given wins: every option, and every further `-c FILE` except its
`trainer.default_root_dir`, so that a result never goes to the folder that a task's configuration names. Paths in `config.yaml`
are relative to the working directory, as in `wavlm fit`; the checkpoint is always that of RUN, which may have moved.

The result of a run is that of its best checkpoint on its own test data: figures of others (another corpus or split,
`data.eval_transforms`, fewer batches, `--ckpt_path last`) go to a folder of their own inside RUN, see `folder_of_figures`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_url
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.run_folder import BEST, CARD, CONFIG, LAST, checkpoint, init_args, read_run_config
from wavlm_lightning.tasks.huggingface.reading import is_head_folder

SCORING = ("validate", "test")
ROOT, CHECKPOINT = "--trainer.default_root_dir", "--ckpt_path"
SHOWN = 6  # names of runs in a message


def options_of_run(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """The subcommand and options that a command stands for, and the run that it names, if it names one.

    Args:
        argv: the subcommand, a run folder or one of its checkpoints if there is one, and options.

    Raises:
        UserError: what is named is no run, or `fit` names one.

    Example:
        >>> options_of_run(["test", "runs/ks"])
        (['test', '-c', 'runs/ks/config.yaml', '--trainer.default_root_dir', 'runs/ks', '--ckpt_path', 'best'],
        PosixPath('runs/ks'))
    """
    verb, given, options = argv[0], argv[1] if len(argv) > 1 else "-", list(argv[2:])
    if given.startswith("-") or verb not in ("fit", *SCORING):
        return list(argv), None
    if verb == "fit":
        raise UserError(_how_to_fit(given))
    run, chosen = _find(Path(given), verb)
    folder = [] if _names(options, ROOT) else [ROOT, str(run)]
    weights = [] if _names(options, CHECKPOINT) else [CHECKPOINT, chosen]
    return [verb, "-c", str(run / CONFIG), *options, *folder, *weights], run


def check_surroundings(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse a run whose corpus, encoder or device is not here, with the option to give.

    Args:
        run: its folder.
        config: the parsed options of the subcommand.

    Raises:
        UserError: naming what is missing.
    """
    data, upstream = _arguments(config.get("data")), _arguments(_arguments(config.get("model")).get("upstream"))
    while isinstance(upstream.get("upstream"), Mapping):  # a choice of layers of another upstream
        upstream = _arguments(upstream["upstream"])
    # A source that is no path, such as `base` or `hf:NAME`, is for the upstream to judge.
    for what, option, path in (
        ("corpus", "--data.corpus DIR", data.get("corpus")),
        ("encoder", "--model.upstream.source PATH", upstream.get("source")),
    ):
        if isinstance(path, str) and "/" in path and ":" not in path and not is_url(path) and not Path(path).exists():
            raise UserError(f"{run}: its {what} {path} is not there{_started_in(run)}; give {option}, where it is now")
    accelerator = (config.get("trainer") or {}).get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise UserError(
            f"{run}: was trained with trainer.accelerator {accelerator}, which this machine lacks; give "
            "--trainer.accelerator auto --trainer.devices 1"
        )


def folder_of_figures(run: Path, content: Mapping[str, Any]) -> str:
    """The folder, inside that of a run or of each of its heads, for figures of other test data or weights; empty for its own.

    Args:
        run: its folder; without a `config.yaml` nothing is known of its own data.
        content: the configuration of the test, as `config.yaml` would have it.

    Example:
        >>> folder_of_figures(Path("runs/mos"), {"data": {"init_args": {"test_split": "known"}}})
        'test-known'
    """
    before = read_run_config(run)
    if not before:
        return ""
    own, now = (init_args(each, "data") for each in (before, content))
    limits = [str((each.get("trainer") or {}).get("limit_test_batches") or 1.0) for each in (before, content)]
    parts: list[str] = []
    told: list[Any] = []
    if other := _other_corpus(own.get("corpus"), now.get("corpus")):
        parts.append(Path(now["corpus"]).name)
        told.append(other)
    if (split := now.get("test_split", "test")) != own.get("test_split", "test"):
        parts.append(split)
    if (transforms := now.get("eval_transforms") or []) != (own.get("eval_transforms") or []):
        parts.append("transformed")
        told.append(transforms)
    if limits[0] != limits[1]:
        parts.append(f"batches-{limits[1]}")
    asked, best = content.get("ckpt_path") or BEST, checkpoint(run, BEST)
    if asked != BEST and best.exists() and Path(asked).resolve() != best.resolve():
        parts.append(Path(asked).stem)
        path = checkpoint(run, LAST) if asked == LAST else Path(asked)
        told += [] if path.resolve().parent == best.resolve().parent else [str(path.resolve())]
    if not parts:
        return ""
    # Corpora of one name, other transforms and checkpoints from elsewhere have folders of their own.
    parts += [hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:6]] if told else []
    return f"test-{re.sub(r'[^A-Za-z0-9._+-]+', '-', '-'.join(parts))}"


def _other_corpus(own: Any, now: Any) -> str:
    """The content of a corpus that is another one than the run's; empty for the same one, which may have moved."""
    if own == now or not isinstance(own, str) or not isinstance(now, str):
        return ""
    if is_url(own) or is_url(now):
        return now
    try:
        before, after = Corpus.open(own).sha256, Corpus.open(now).sha256
    except UserError:  # the run's is gone, so this is where it is now
        return ""
    return "" if before == after else after


def _find(path: Path, verb: str) -> tuple[Path, str]:
    """The run folder, and the value of `--ckpt_path`."""
    if path.suffix == ".ckpt" and path.parent.name == "checkpoints" and path.exists():
        run, chosen = path.parent.parent, str(path)
    else:
        run, chosen = path, BEST
    if (run / CONFIG).is_file():
        return run, chosen
    raise UserError(_why_no_run(path, verb))


def _why_no_run(path: Path, verb: str) -> str:
    command = f"`wavlm {verb} RUN`"
    if path.suffix in (".yaml", ".yml"):
        return f"{path}: a configuration, not a run folder; write `wavlm {verb} -c {shlex.quote(str(path))}`"
    if not path.exists():
        beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        return f"{path}: no such run folder{nearest(path.name, beside) or f'; {command} takes one of `wavlm fit`'}"
    if not path.is_dir():
        return f"{path}: not a run folder; {command} takes one of `wavlm fit`, or a file of its checkpoints/"
    inside = sorted({str(each.parent) for depth in ("*", "*/*") for each in path.glob(f"{depth}/{CONFIG}")})
    if inside:
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return f"{path}: holds runs and is none; name one of them: {', '.join(inside[:SHOWN])}{more}"
    if is_head_folder(path):
        return (
            f"{path}: a folder in Hugging Face's format, which does not say on which corpus to {verb}; {command} takes the "
            f"run folder that it was exported from, and `wavlm predict {shlex.quote(str(path))} FILE...` takes this one"
        )
    if (path / CARD).is_file():
        command = read_json(path / CARD, "a result card", "delete it and test the run again").get("command")
        return f"{path}: has a result card and no {CONFIG}, because nothing was trained there; repeat its command: {command}"
    return f"{path}: no {CONFIG} here; {command} takes a run folder of `wavlm fit`"


def _how_to_fit(given: str) -> str:
    run = Path(given)
    if run.suffix in (".yaml", ".yml"):
        return f"{run}: a configuration follows -c: `wavlm fit -c {shlex.quote(given)}`"
    if not (run / CONFIG).is_file():
        return f"{run}: no run folder, and `wavlm fit` takes a configuration: `wavlm fit -c FILE`"
    words = ["-c", str(run / CONFIG), ROOT, str(run), CHECKPOINT, "last"]
    return (
        f"a run, and `wavlm fit` takes a configuration: it goes on with `wavlm fit {shlex.join(words)} --trainer.max_steps N`; "
        f"another {ROOT} without {CHECKPOINT} begins a new run with its options"
    )


def _started_in(run: Path) -> str:
    """Where paths of a run are relative to, as far as its place and its configuration tell."""
    said = (read_run_config(run).get("trainer") or {}).get("default_root_dir")
    place, parts = run.resolve(), Path(said).parts if isinstance(said, str) else ()
    if not parts or Path(*parts).is_absolute() or place.parts[-len(parts) :] != parts:
        return ""
    start = Path(*place.parts[: -len(parts)])
    return (
        "" if start == Path.cwd() else f" (the run was started in {start}, and its paths are relative to that folder)"
    )


def _arguments(block: Any) -> Mapping[str, Any]:
    """The constructor arguments of a class in a configuration."""
    arguments = block.get("init_args") if isinstance(block, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def _names(options: Sequence[str], option: str) -> bool:
    return any(word.partition("=")[0] == option for word in options)
