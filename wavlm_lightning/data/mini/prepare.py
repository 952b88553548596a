"""Writes the mini corpus: one corpus for each data set, each finished before the next begins."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from wavlm_lightning.data.corpus import CorpusWriter, Utterance
from wavlm_lightning.data.mini import (
    commands,
    dialogues,
    emotions,
    grammar,
    identities,
    keywords,
    meetings,
    queries,
    ratings,
    readings,
    target_speakers,
)
from wavlm_lightning.data.mini.full_stack import accents, enhancement, noisy, separation, translation, voices
from wavlm_lightning.data.mini.plans import SIZES, Plan, Size
from wavlm_lightning.data.mini.rendering import RendererPool, open_renderers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import LOCK, check_output, own_folder, sweep_leftovers
from wavlm_lightning.system.hardware import capped, usable_cores
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import read_json

# Increase it when the same size and seed give other samples or labels.
FORMAT = 1

_PLANS: dict[str, Callable[[Size, int], Plan]] = {
    "pretrain": readings.pretrain,
    "pr": readings.pr,
    "ks": keywords.ks,
    "ic": commands.ic,
    "sid": identities.sid,
    "sv": identities.sv,
    "sd": dialogues.sd,
    "er": emotions.er,
    "qbe": queries.qbe,
    "sf": commands.sf,
    "meetings": meetings.meetings,
    "target": target_speakers.target,
    "mos": ratings.mos,
    "accents": accents.accents,
    "enhancement": enhancement.enhancement,
    "noisy": noisy.noisy,
    "separation": separation.separation,
    "translation": translation.translation,
    "voices": voices.voices,
}
_LICENCE = "CC0-1.0; synthetic speech, made on this machine"


def prepare(out: Path, size: str, datasets: Sequence[str], seed: int, workers: int | None, progress: bool) -> None:
    """`wavlm_lightning.data.mini.prepare_mini`, without its defaults."""
    if size not in SIZES:
        raise UserError(f"the mini corpus has no size {size!r}; choose one of {', '.join(SIZES)}")
    chosen = list(dict.fromkeys(datasets))
    for name in chosen:
        if name not in _PLANS:
            raise UserError(f"the mini corpus has no data set {name!r}; choose from {', '.join(_PLANS)}")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    if not os.path.isdir(out):  # noqa: PTH112  # `Path.is_dir` raises for a name that is too long
        check_output(out)
    # Check all before making one, so that the data sets never mix two sizes, seeds or formats.
    missing = [name for name in chosen if not _finished(out / name, size, seed)]
    for name in set(chosen).difference(missing):
        sweep_leftovers(out / name, re.escape(LOCK))  # of a process that was killed between its last two steps
    if not missing:
        return
    check_output(out)
    with contextlib.ExitStack() as owned:
        for name in missing:
            owned.enter_context(own_folder(out / name, "prepare mini"))
        # Another process may have made some in the meantime.
        missing = [name for name in missing if not _finished(out / name, size, seed)]
        if missing:
            renderers = owned.enter_context(
                open_renderers(capped(workers, "--workers") if workers else usable_cores(), seed)
            )
        for name in missing:
            _write(out / name, name, size, seed, renderers, progress)


def _write(directory: Path, name: str, size: str, seed: int, renderers: RendererPool, progress: bool) -> None:
    plan = _PLANS[name](SIZES[size], seed)
    source = {"recipe": "mini", "dataset": name, "size": size, "seed": seed, "format": FORMAT}
    source |= {"synthesiser": renderers.synthesiser, "grammar": grammar.fingerprint()}
    writer = CorpusWriter(directory, f"mini/{name}", _LICENCE, source)
    total = sum(len(utterances) for utterances in plan.splits.values())
    with progress_bar(total=total, desc=f"mini/{name}", unit="utt", disable=not progress) as bar:
        for split, utterances in plan.splits.items():
            writer.write_split(split, _counted(renderers.render(utterances), bar))
    writer.finish(plan.inventories, plan.trials or None)


def _counted(utterances: Iterable[Utterance], bar: tqdm) -> Iterator[Utterance]:
    for utterance in utterances:
        yield utterance
        bar.update()


def _finished(directory: Path, size: str, seed: int) -> bool:
    path = directory / "corpus.json"
    if not path.exists():
        return False
    try:
        source = read_json(path, "the description of a corpus")["source"]
        found = {key: source[key] for key in ("size", "seed", "format")}
        synthesiser = str(source["synthesiser"])
    except (UserError, KeyError, TypeError):
        raise UserError(f"{directory} holds a corpus that is not a mini corpus; choose another --out") from None
    wanted = {"size": size, "seed": seed, "format": FORMAT}
    remedy = "delete it or choose another --out"
    if found != wanted:
        described = [", ".join(f"{k} {v}" for k, v in which.items()) for which in (found, wanted)]
        raise UserError(f"{directory} holds a mini corpus of {described[0]}, not of {described[1]}; {remedy}")
    if synthesiser == "buzz" and importlib.util.find_spec("espeakng_loader") is not None:
        raise UserError(f"{directory} was made without espeak-ng, which is installed now; {remedy}")
    return True
