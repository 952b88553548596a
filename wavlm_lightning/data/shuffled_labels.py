"""A copy of a corpus with its labels on the wrong utterances, as a control experiment.

A model that still scores above chance on it uses something other than the audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavlm_lightning.data.corpus import Corpus, CorpusWriter, Split
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output
from wavlm_lightning.system.progress import progress_bar


def permute_labels(corpus: Corpus, out: Path, seed: int = 0) -> Corpus:
    """Write to `out` a copy in which the metadata of every split, and the answers of its trials, are permuted."""
    if out.resolve() == corpus.directory.resolve():
        raise UserError(f"{out}: is the corpus itself; choose another --out")
    check_output(out)
    rng = np.random.default_rng(seed)
    writer = CorpusWriter(
        out, f"{corpus.name}, labels permuted", corpus.body["licence"], {**corpus.body["source"], "permuted": seed}
    )
    total = sum(part["utterances"] for part in corpus.body["splits"].values())
    trials: dict[str, list[tuple[int, str, str]]] = {}
    with progress_bar(total=total, unit="utt", desc=str(out)) as bar:
        for name in corpus.splits:
            split = corpus.split(name)
            writer.write_split(name, _permuted(split, rng.permutation(len(split)), bar))
            if (corpus.directory / f"trials-{name}.csv").is_file():
                rows = corpus.trials(name)
                answers = rng.permutation([same for same, *_ in rows])
                trials[name] = [(int(same), a, b) for same, (_, a, b) in zip(answers, rows, strict=True)]
    return writer.finish(corpus.inventories, trials or None)


def _permuted(split: Split, order: np.ndarray, bar) -> Iterator[Utterance]:
    metas = split.metas()
    for number in range(len(split)):
        shard, place = split.locate(number)
        audio = shard.further_audio(place)  # stays with its waveform: only labels change places
        # Silence was allowed when the corpus was written.
        yield Utterance(shard.keys[place], shard.waveform(place), metas[order[number]], allow_silence=True, audio=audio)
        bar.update()
