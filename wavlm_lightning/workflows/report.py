"""Report of run folders (`wavlm report`): one page, its Markdown, and a CSV of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.runs.curves import PretrainingFacts, PretrainingRun
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output

# Training utterances up to which speakers are counted and labels compared with phones: that takes seconds.
MOST_UTTERANCES = 20_000


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    compare: tuple[str, str] | None = None,
    group_seeds: bool = False,
    title: str | None = None,
    control: str | None = None,
    setup: Sequence[tuple[str, str]] = (),
    commands: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> tuple[Path, list[str]]:
    """Write `report.html`, `report.md`, `report.csv` and pictures of run folders.

    Args:
        runs: run folders, folders of run folders, or card files.
        output: folder of the report; made if missing.
        compare: two upstreams, by the names of their rows, to compare metric by metric; by default those of a report
            that has exactly two.
        group_seeds: encoders whose labels differ only by a number at the end are seeds of one upstream.
        title: of the page; by default the name of the folder of the runs.
        control: the upstream that the others are compared with, by the name of its row; by default random weights, or else
            spectral features.
        setup: further (what, how) pairs for the setup, such as the machine.
        commands: (purpose, command) pairs, shown as "Go on from here".
        notes: sentences about these runs for the end of the page.

    Returns:
        The path of the HTML page, and a sentence for each thing that was left out.

    Raises:
        UserError: a folder does not exist, there is nothing to report in any, or an upstream to compare is unknown.

    Example:
        >>> page, left_out = write_report([Path("runs/superb")], Path("runs/report"))
    """
    check_output(output, "--output")
    more: dict[str, Any] = {"title": title, "control": control, "setup": setup, "commands": commands, "notes": notes}
    return write_run_report(runs, output, reservation, compare, group_seeds, describe=describe_pretraining, **more)


def reservation(card: ResultCard) -> str | None:
    """The reason why a card must not be compared with SUPERB's published rows; None if it may."""
    from wavlm_lightning.workflows.superb.official import CORPORA, is_official

    if card.task not in CORPORA:
        return f"{card.task} is not one of SUPERB's ten tasks"
    try:
        return is_official(card)
    except UserError:
        return f"the corpus of {card.task} is no longer there to be checked"


def describe_pretraining(run: PretrainingRun) -> PretrainingFacts:
    """Corpus, codebook and size of a pre-training run, without those that cannot be read any more.

    Paths in its `config.yaml` are relative to the working directory, as in `wavlm fit`.
    """
    parameters = _parameters(run.folder / "checkpoints" / "last.ckpt")
    seen = _labels_seen(run.folder)
    try:
        return replace(_describe_data(run, parameters), labelled=seen)
    except (UserError, OSError, KeyError):  # moved, deleted or written anew since
        return PretrainingFacts(parameters=parameters, labelled=seen)


def _labels_seen(folder: Path) -> str:
    from wavlm_lightning.encoder import CheckpointError
    from wavlm_lightning.encoder.checkpoints.labels_seen import labels_seen, said

    try:
        return said(labels_seen(folder))
    except (CheckpointError, OSError):  # cut short, or of another program
        return ""


def _describe_data(run: PretrainingRun, parameters: int | None) -> PretrainingFacts:
    from wavlm_lightning.codebooks.labels import label_head
    from wavlm_lightning.codebooks.quality import label_quality
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.remote.mirror import is_url

    path, labels = run.data.get("corpus"), run.data.get("labels")
    if isinstance(labels, list):
        labels = labels[0] if len(labels) == 1 else None
    if not isinstance(path, str) or is_url(path):  # a mixture is a list; a report makes no requests
        return PretrainingFacts(parameters=parameters)
    corpus = Corpus.open(path)
    train = corpus.split(run.data.get("train_split", "train"))
    few = len(train) <= MOST_UTTERANCES
    quality = label_quality(corpus, labels, train.name) if few and labels else None
    return PretrainingFacts(
        corpus=", ".join(filter(None, [corpus.name, corpus.body["source"].get("synthesiser")])),
        minutes=train.seconds / 60,
        speakers=(len({meta.get("speaker") for meta in train.metas()} - {None}) or None) if few else None,
        clusters=label_head(corpus, labels)["size"] if labels else None,
        pnmi=quality.pnmi if quality else None,
        purity=quality.phone_purity if quality else None,
        unigram=quality.unigram if quality else None,
        parameters=parameters,
    )


def _parameters(checkpoint: Path) -> int | None:
    """Parameters of encoder and prediction head; None without a checkpoint in one file (FSDP2 writes folders)."""
    if not checkpoint.is_file():
        return None
    import torch

    from wavlm_lightning.pretraining.head_file import without_teachers

    try:
        # Mapped into memory and without check sums, so that only the headers of a large checkpoint are read.
        state = without_teachers(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True))
    except (RuntimeError, OSError, EOFError, KeyError, UnpicklingError):  # cut short, or of another program
        return None
    return sum(value.numel() for key, value in state.items() if key.startswith(("encoder.", "objectives.")))
