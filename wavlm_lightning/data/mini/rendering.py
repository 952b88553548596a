"""Renders scripted utterances with several synthesisers at once, and returns them in order."""

import queue
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio
from wavlm_lightning.data.mini.synthesis.espeak import EspeakProcess, EspeakUnavailableError
from wavlm_lightning.data.mini.synthesis.formant_synth import FormantSynthesiser
from wavlm_lightning.data.mini.synthesis.speech import Synthesiser
from wavlm_lightning.system.errors import pip_install

_AHEAD = 8


class RendererPool:
    """Synthesisers, which are closed with the pool, and a thread for each.

    Threads suffice: espeak-ng runs in processes of its own and numpy's transforms release the interpreter's lock.
    """

    def __init__(self, synthesisers: list[Synthesiser], seed: int) -> None:
        self.synthesiser = synthesisers[0].name
        self._seed = seed
        self._synthesisers = synthesisers
        self._idle: queue.SimpleQueue[Synthesiser] = queue.SimpleQueue()
        for synthesiser in synthesisers:
            self._idle.put(synthesiser)
        self._threads = ThreadPoolExecutor(len(synthesisers), thread_name_prefix="mini")

    def render(self, utterances: Iterable[ScriptedUtterance | ComposedUtterance]) -> Iterator[Utterance]:
        """Yield the rendered utterances in order, computed only a few ahead of the reader."""
        waiting: deque[Future[Utterance]] = deque()
        try:
            for utterance in utterances:
                waiting.append(self._threads.submit(self._render, utterance))
                if len(waiting) >= _AHEAD * len(self._synthesisers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _render(self, utterance: ScriptedUtterance | ComposedUtterance) -> Utterance:
        synthesiser = self._idle.get()
        try:
            return utterance.render(Studio(synthesiser, self._seed))
        finally:
            self._idle.put(synthesiser)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for synthesiser in self._synthesisers:
            synthesiser.close()


@contextmanager
def open_renderers(workers: int, seed: int) -> Iterator[RendererPool]:
    """A pool of espeak-ng processes or, with a warning, of formant synthesisers where espeak-ng is not installed."""
    synthesisers: list[Synthesiser] = []
    try:
        for _ in range(workers):
            synthesisers.append(EspeakProcess())
    except EspeakUnavailableError as error:
        print(
            f"warning: espeak-ng is not usable ({error}); the mini corpus is made of synthetic buzzes, for tests only. "
            f"Install it: {pip_install('corpus')}",
            file=sys.stderr,
        )
        for synthesiser in synthesisers:
            synthesiser.close()
        synthesisers = [FormantSynthesiser() for _ in range(workers)]
    with closing(RendererPool(synthesisers, seed)) as opened:
        yield opened
