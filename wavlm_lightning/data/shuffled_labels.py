"""A copy of a corpus with its labels on the wrong utterances, as a control experiment.

A model that still scores above chance on it uses something other than the audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Corpus, CorpusWriter, Split
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output
from wavlm_lightning.system.progress import progress_bar

PERMUTED, OF = "permuted", "permuted_of"  # in the `source` of a copy: the seed, and the hash of the corpus


def permute_labels(corpus: Corpus, out: Path, seed: int = 0, audio: Sequence[str] = ()) -> Corpus:
    """Write to `out` a copy in which labels are those of other utterances of the split.

    Args:
        corpus: with any labels.
        out: the folder to make.
        seed: of the permutation.
        audio: further audio members that change places, each utterance's together (`enrolment` of target-speaker tasks);
            metadata and trials then stay. By default the metadata and the answers of the trials change places, and all audio
            stays.

    Raises:
        UserError: `out` is the corpus itself, or an utterance has no such member.
    """
    if out.resolve() == corpus.directory.resolve():
        raise UserError(f"{out}: is the corpus itself; choose another --out")
    check_output(out)
    rng = np.random.default_rng(seed)
    what = f"{' and '.join(audio)} permuted" if audio else "labels permuted"
    writer = CorpusWriter(out, f"{corpus.name}, {what}", corpus.body["licence"], _source(corpus, seed, audio))
    total = sum(part["utterances"] for part in corpus.body["splits"].values())
    trials: dict[str, list[tuple[int, str, str]]] = {}
    with progress_bar(total=total, unit="utt", desc=str(out)) as bar:
        for name in corpus.splits:
            split = corpus.split(name)
            order = rng.permutation(len(split))
            if audio:  # one circle through all, so that no utterance keeps its own
                order[order.copy()] = np.roll(order, 1)
            writer.write_split(name, _permuted(split, order, audio, bar))
            for place in (name, *(f"{name}_{more}" for more in corpus.trial_lists(name))):
                if place != name or (corpus.directory / f"trials-{place}.csv").is_file():
                    rows = corpus.trials(place)
                    answers = [same for same, *_ in rows]
                    answers = answers if audio else [int(same) for same in rng.permutation(answers)]
                    trials[place] = [(same, a, b) for same, (_, a, b) in zip(answers, rows, strict=True)]
    return writer.finish(corpus.inventories, trials or None)


def _source(corpus: Corpus, seed: int, audio: Sequence[str]) -> dict[str, Any]:
    facts = {PERMUTED: seed, OF: corpus.sha256}
    return {**corpus.body["source"], **facts, **({"permuted_audio": list(audio)} if audio else {})}


def _permuted(split: Split, order: np.ndarray, audio: Sequence[str], bar: Any) -> Iterator[Utterance]:
    metas = split.metas()
    for number in range(len(split)):
        shard, place = split.locate(number)
        further = shard.further_audio(place)  # stays with its waveform: only labels change places
        meta = metas[order[number]]
        if audio:
            other, there = split.locate(int(order[number]))
            further |= {name: other.waveform(there, member=name) for name in audio}
            meta = metas[number]
        # Silence was allowed when the corpus was written.
        yield Utterance(shard.keys[place], shard.waveform(place), meta, allow_silence=True, audio=further)
        bar.update()
