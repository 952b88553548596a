"""`wavlm align` from end to end: options, the first alignment, a second round, the comparison with true times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import WORD_END
from wavlm_lightning.tasks.decoding import check_decodes
from wavlm_lightning.workflows.align.against_truth import compared_with_truth
from wavlm_lightning.workflows.align.aligner import Aligner
from wavlm_lightning.workflows.align.second_round import realign_shards
from wavlm_lightning.workflows.align.shards import AlignedCorpus, align_shards
from wavlm_lightning.workflows.align.teacher import labels_of_head
from wavlm_lightning.workflows.predict.head import open_head

TRANSCRIPTS = ("true", "decoded")
RATES = (50, 100)
FIRST = "first"  # suffix of the set that a realignment begins with


def align_corpus(
    run: Path,
    corpus: str | Path,
    name: str,
    *,
    splits: Sequence[str] | None = None,
    transcripts: str = "true",
    labelled: Path | None = None,
    lm: Path | None = None,
    lexicon: Path | None = None,
    rate: int | None = None,
    realign: bool = False,
    batch_seconds: float = 60.0,
    device: str | None = None,
) -> AlignedCorpus:
    """Align a corpus with a trained ASR or PR head: `CORPUS/alignments/NAME`, one file a shard; an interrupted call goes on.

    Args:
        run: run folder of the head, or a folder of transformers with a `WavLMForCTC`.
        corpus: folder of the corpus.
        name: of the alignments.
        splits: which; all by default.
        transcripts: `true`, those of the corpus, or `decoded`, what the head hears.
        labelled: a corpus whose utterances, found by their keys, keep its transcripts; all others are decoded, as are those of
            its validation and test that are in a training split of `corpus`. Some of them must be in `corpus`, unless
            `transcripts` is `decoded` (the teacher learned from another corpus).
        lm: decode by beam search: an ARPA file, or weights of `wavlm lm tune` (a file or the run folder that holds it).
        lexicon: words and their letters (letter heads, for the search), or words and their phones (phone heads: the text of the
            corpus is pronounced, and `lm` is a model of words).
        rate: 100 aligns a head of 50 frames a second on twice as many, with scores interpolated between them; None: as the head.
        realign: one round of realignment by a small classifier of frames (`tasks.components.realignment`); phone heads only. The
            first alignment is kept as `NAME-first`.
        batch_seconds: audio in a batch, padding included.
        device: such as `cuda`; the GPU if there is one by default.

    Raises:
        UserError: the head cannot be used, options contradict each other, the set was made by something else, or nothing could be
            aligned.

    Example:
        >>> print(*align_corpus(Path("runs/finetune/pr"), "runs/demo/corpus/pr", "forced").lines, sep="\\n")
    """
    _check_options(transcripts, labelled, lm, rate, batch_seconds)
    opened = Corpus.open(corpus)
    names = list(opened.splits if splits is None else splits)
    for split in names:
        opened.split(split)
    head = open_head(Path(run), device)
    task = check_decodes(head.task, str(run))
    if realign and WORD_END in task.labels:
        raise UserError(
            f"--realign: {run} answers with letters, which do not sound alike everywhere; realign a phone head"
        )
    aligner = Aligner(
        head, opened, transcripts, labelled, lm, lexicon, rate, batch_seconds, labels_of_head(task, Path(run))
    )
    about = aligner.about(Path(run))
    first = align_shards(opened, f"{name}-{FIRST}" if realign else name, names, about, aligner)
    done = first
    if realign:
        about["settings"] = {**about["settings"], "realign": True}
        done = realign_shards(opened, name, f"{name}-{FIRST}", names, about, aligner)
        done.lines += first.lines[len(names) :]  # what could not be aligned
    for split in names:
        done.lines += compared_with_truth(opened, name, split, aligner.rate)
    return done


def _check_options(
    transcripts: str, labelled: Path | None, lm: Path | None, rate: int | None, batch_seconds: float
) -> None:
    if transcripts not in TRANSCRIPTS:
        raise UserError(f"--transcripts {transcripts}: choose {' or '.join(TRANSCRIPTS)}")
    if lm is not None and transcripts == "true" and labelled is None:
        raise UserError(
            "--lm: true transcripts are not decoded; add --transcripts decoded or --labelled, or leave --lm out"
        )
    if rate is not None and rate not in RATES:
        raise UserError(f"--rate {rate}: choose {' or '.join(map(str, RATES))}")
    if not batch_seconds > 0:
        raise UserError(f"--batch-seconds {batch_seconds:g}: must be above 0")
