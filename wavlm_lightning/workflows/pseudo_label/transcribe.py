"""`wavlm pseudo-label` from end to end: options, hearing, selection, the new corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder
from wavlm_lightning.tasks.components.confidence import SCORES
from wavlm_lightning.workflows.pseudo_label.hearing import Hearing, splits_to_hear
from wavlm_lightning.workflows.pseudo_label.teacher import Teacher
from wavlm_lightning.workflows.pseudo_label.writing import refuse_foreign, write_corpus

KEPT = "pseudo_labels"  # folder in OUT: what was heard


def pseudo_label(
    run: Path,
    corpus: Path | str,
    out: Path,
    share: float | None = None,
    threshold: float | None = None,
    score: str = "confidence",
    lm: Path | None = None,
    splits: Sequence[str] | None = None,
    exclude: Sequence[Path | str] = (),
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    batch_seconds: float = 60.0,
    jobs: int | None = None,
    part: str | None = None,
    device: str | None = None,
) -> list[str]:
    """Transcribe a corpus with a trained ASR or PR head, and write the surest transcripts as a corpus.

    Args:
        run: run folder of the teacher, with a head that letters or phones come out of.
        corpus: folder of the corpus. Utterances on which the run was trained with their true labels are left out.
        out: folder of the new corpus, whose audio is linked. Its `corpus.json` says how it was made (`source.pseudo_labels`), its
            records who wrote the transcript (`label_source`, with all scores).
        share: of the transcripts, the best ones by `score`, ties by key; `SHARE` if neither this nor a threshold is given.
        threshold: keep transcripts with at least this score instead.
        score: which of `SCORES` decides.
        lm: ARPA file for a beam search with the weights of `RUN/language_model.yaml` (`wavlm lm tune`), or without that file with
            the default ones; also such a file. None decodes greedily.
        splits: to transcribe; by default the training split.
        exclude: corpora whose utterances, found by their keys, are left out: those that a student hears with their true text, or
            is judged by.
        min_seconds: shorter utterances are left out.
        max_seconds: longer ones are left out.
        batch_seconds: audio in a batch, padding included.
        jobs: processes; None chooses.
        part: `I/N` or `auto`: only hear every N-th shard, for a call without it that comes after all parts.
        device: such as `cpu`; the GPU if there is one by default.

    Returns:
        Lines that say what was found: counts, and where the corpus has true labels, the errors of the transcripts.

    Raises:
        UserError: the run is no recogniser, the corpus cannot be heard as the run's was, nothing is left, or another process
            writes to `out`.

    Example:
        >>> pseudo_label(Path("runs/asr"), "data/unlabelled", Path("data/pseudo1"))[0]
        'data/pseudo1: 8,812 of 12,588 transcripts, 15.2 h, round 1'
    """
    if score not in SCORES:
        raise UserError(f"--score {score}: there is none of this name; give one of {', '.join(SCORES)}")
    if share is not None and threshold is not None:
        raise UserError("--share and --threshold both choose; give one of them")
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--share {share}: must be above 0 and at most 1")
    if not 0 <= min_seconds < max_seconds:
        raise UserError(f"--min-seconds {min_seconds:g} and --max-seconds {max_seconds:g}: must be above 0 and ascend")
    check_output(out)
    refuse_foreign(out)
    shard = JobShard.parse(part) if part else JobShard()
    with own_folder(out, "pseudo-label", part=(shard.number, shard.of)):
        teacher = Teacher(run, lm, batch_seconds, min_seconds, max_seconds, device)
        opened = Corpus.open(corpus)
        if out.resolve() == opened.directory.resolve():
            raise UserError(f"--out {out}: is the corpus that is transcribed; choose another folder")
        hearing = Hearing(teacher, opened, out / KEPT, splits_to_hear(opened, splits, teacher), exclude)
        hearing.hear(jobs, shard)
        if part:
            return [
                f"{hearing.folder}: {len(hearing.places)} shards of part {part}; after all parts, run it without --part"
            ]
        normalisation = teacher.normalisation(out / KEPT, needed=score == "normalised")
        return write_corpus(hearing, out, normalisation, score, share, threshold)
