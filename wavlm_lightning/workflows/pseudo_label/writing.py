"""The corpus of pseudo-labels: links to the audio, records that say who wrote the transcript, and a report of the errors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.label_sets import label_sets
from wavlm_lightning.data.shards import with_other_records
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, said
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.confidence import LengthNormalisation
from wavlm_lightning.tasks.contract import PROCESSING
from wavlm_lightning.tasks.pseudo_labels import LABEL_SOURCE, PSEUDO
from wavlm_lightning.workflows.pseudo_label.hearing import Hearing
from wavlm_lightning.workflows.pseudo_label.selection import SHARE, Candidate, chosen, error_rate, usable

# Fields of a record that say what was spoken: the teacher must not pass on what people have written.
SPOKEN = ("text", "phones", "words", "intent", "slots", "keyword", "term", "terms")
DECILES = 10


def write_corpus(
    hearing: Hearing,
    out: Path,
    normalisation: LengthNormalisation | None,
    score: str,
    share: float | None,
    threshold: float | None,
) -> list[str]:
    """Select transcripts, write their corpus to `out`, and return lines that say what it holds."""
    teacher, corpus, task = hearing.teacher, hearing.corpus, hearing.teacher.task
    candidates, counts, missed = usable(hearing, normalisation)
    ordered, best = chosen(candidates, score, share, threshold)
    reasons = {why: count for why, count in sorted(counts.items()) if why != "usable"}
    told = ", ".join(f"{count:,} {why}" for why, count in reasons.items()) or "none was left out before"
    if not best:
        remedy = (
            "" if threshold is None or not candidates else f", whose best {score} is {ordered[0].scores[score]:.4g}"
        )
        raise UserError(
            f"{out}: no transcript is selected of {len(candidates):,}{remedy} ({told}); choose other limits"
        )
    lowest = best[-1].scores[score]
    choice = {"threshold": threshold} if threshold is not None else {"share": SHARE if share is None else share}
    truth = _truth(ordered, best, score, missed)
    source: dict[str, Any] = {
        "recipe": "pseudo-label",
        **{name: corpus.body["source"][name] for name in PROCESSING if name in corpus.body["source"]},
        PSEUDO: {
            "round": teacher.round,
            "teacher": {"run": str(teacher.run), "task": task.name, "sha256": teacher.sha256},
            "decoder": teacher.decoder,
            "of": {"corpus": corpus.name, "sha256": corpus.sha256, "splits": list(hearing.splits)},
            "score": score,
            **choice,
            "lowest": lowest,
            "usable": len(candidates),
            "selected": len(best),
            "left_out": reasons,
            **({"excluded": hearing.shared} if hearing.shared else {}),
            **({} if normalisation is None else {"normalisation": asdict(normalisation)}),
            **({} if truth is None else {"truth": {"metric": task.metric, **truth}}),
            LABELLED: teacher.labelled,
        },
    }
    writer = CorpusWriter(out, f"{corpus.name}, pseudo-labels {teacher.round}", corpus.body["licence"], source)
    metas = _write_shards(writer, hearing, best, out)
    inventories = {name: names for name, names in label_sets({"train": metas}).items() if names}
    if task.text_key == "phones":
        inventories["phones"] = list(task.labels[task.special :])  # a student's head has the outputs of its teacher's
    written = writer.finish(inventories)
    hours = sum(written.split(split).seconds for split in written.splits) / 3600
    lines = [
        f"{out}: {len(best):,} of {len(candidates):,} transcripts, {hours:.2f} h, round {teacher.round}; score "
        f"{score!r} at least {lowest:.4g}",
        f"left out: {told}",
        *(f"excluded: {each['utterances']:,} utterances that {each['corpus']} has" for each in hearing.shared),
        f"decoder: {teacher.decoder['kind']}" + (f", {teacher.note}" if teacher.note else ""),
        f"true labels behind them: {said(teacher.labelled) or 'not known'}",
    ]
    if teacher.corpus is None:
        lines.append(
            f"note: the corpus of the teacher, {teacher.data.path}, is not there, and nothing was left out because of it"
        )
    if truth is not None:
        name = metric_title(task.metric)
        nothing = f", with {missed:,} {task.counted} where nothing was heard" if missed else ""
        lines.append(
            f"{name} of the transcripts: {truth['selected']:.2f} % selected, {truth['all']:.2f} % all" + nothing
        )
        deciles = " ".join(f"{value:.1f}" if value is not None else "-" for value in truth["deciles"])
        lines.append(f"{name} by tenths, the best by score {score!r} first: {deciles}")
    return lines


def _truth(ordered: Sequence[Candidate], best: Sequence[Candidate], score: str, missed: int) -> dict[str, Any] | None:
    """Errors of all, of the selected, and of each tenth by score; None without true labels.

    All of them include the empty transcripts; the tenths do not, which have no score.
    """
    everything, selected = error_rate(ordered, missed), error_rate(best)
    if everything is None or selected is None:
        return None
    ends = [round(len(ordered) * number / DECILES) for number in range(DECILES + 1)]
    deciles = [error_rate(ordered[begin:end]) for begin, end in itertools.pairwise(ends)]
    units = missed + sum(each.units for each in ordered if each.errors is not None)
    return {
        "all": everything,
        "selected": selected,
        "deciles": deciles,
        "deciles_by": score,
        "units": units,
        "missed": missed,
    }


def _write_shards(writer: CorpusWriter, hearing: Hearing, best: Sequence[Candidate], out: Path) -> list[dict[str, Any]]:
    """Link the shards and write their records, in the order of the corpus; returns the records."""
    teacher, phones = hearing.teacher, hearing.teacher.task.text_key == "phones"
    here: dict[tuple[str, int], dict[int, Candidate]] = {}
    for each in best:
        here.setdefault((each.split, each.shard), {})[each.place] = each
    metas: list[dict[str, Any]] = []
    numbers: Counter[str] = Counter()
    for split, number in hearing.places:
        if (split, number) not in here:
            continue
        shard, records = hearing.corpus.split(split).shards[number], []
        places = sorted(here[split, number])
        for place in places:
            each = here[split, number][place]
            meta = {name: value for name, value in shard.meta(place).items() if name not in SPOKEN}
            meta |= {"phones": [[phone] for phone in each.text.split()]} if phones else {"text": each.text}
            meta[LABEL_SOURCE] = {
                "kind": "pseudo",
                "teacher": teacher.sha256,
                "round": teacher.round,
                "scores": each.scores,
                "tokens": each.tokens,
            }
            records.append(meta)
        link = out / f"{split}-{numbers[split]:06d}.tar"
        writer.add_shard(split, with_other_records(link, shard, places, records))
        numbers[split] += 1
        metas += records
    ours = {f"{split}-{number:06d}.tar" for split, count in numbers.items() for number in range(count)}
    for link in out.glob("*.tar"):  # of an earlier selection
        if link.name not in ours:
            link.with_suffix(".index.json").unlink(missing_ok=True)
            link.unlink()
    return metas


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier result."""
    for path in out.glob("*.tar"):
        if not path.is_symlink():
            raise UserError(f"{path}: a shard that is no link, so {out} holds another corpus; choose another --out")
    if (out / "corpus.json").is_file() and PSEUDO not in Corpus.open(out).body["source"]:
        raise UserError(f"{out}: holds a corpus that is not pseudo-labelled; choose another --out")
