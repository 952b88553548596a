"""Performs takes with several synthesisers at once and hands the utterances back in order."""

import queue
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini.espeak import EspeakProcess, EspeakUnavailableError
from wavlm_lightning.data.mini.formant_synth import Buzz
from wavlm_lightning.data.mini.scripted_utterance import Act, Studio, Take
from wavlm_lightning.data.mini.speech import Synthesiser

_AHEAD = 8


class Company:
    """As many synthesisers as workers, and a thread for each.

    Threads suffice: espeak-ng is a process of its own and numpy's transforms release the interpreter.

    Args:
        synthesisers: One a worker; closed with the company.
        seed: Of the corpus.
    """

    def __init__(self, synthesisers: list[Synthesiser], seed: int) -> None:
        self.synthesiser = synthesisers[0].name
        self._seed = seed
        self._synthesisers = synthesisers
        self._idle: queue.SimpleQueue[Synthesiser] = queue.SimpleQueue()
        for synthesiser in synthesisers:
            self._idle.put(synthesiser)
        self._threads = ThreadPoolExecutor(len(synthesisers), thread_name_prefix="mini")

    def perform(self, takes: Iterable[Take | Act]) -> Iterator[Utterance]:
        """Yields the utterance of every take, in order, only a few ahead of the reader."""
        waiting: deque[Future[Utterance]] = deque()
        try:
            for take in takes:
                waiting.append(self._threads.submit(self._perform, take))
                if len(waiting) >= _AHEAD * len(self._synthesisers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _perform(self, take: Take | Act) -> Utterance:
        synthesiser = self._idle.get()
        try:
            return take.perform(Studio(synthesiser, self._seed))
        finally:
            self._idle.put(synthesiser)

    def close(self) -> None:
        """Ends threads and synthesisers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for synthesiser in self._synthesisers:
            synthesiser.close()


@contextmanager
def company(workers: int, seed: int) -> Iterator[Company]:
    """Opens a company of espeak-ng processes or, with a warning, of buzzes where espeak-ng is not installed."""
    synthesisers: list[Synthesiser] = []
    try:
        for _ in range(workers):
            synthesisers.append(EspeakProcess())
    except EspeakUnavailableError as error:
        print(
            f"warning: espeak-ng is not usable ({error}); the mini corpus is made of buzzes, good for tests only. "
            "Install it with: pip install 'wavlm_lightning[corpus]'",
            file=sys.stderr,
        )
        for synthesiser in synthesisers:
            synthesiser.close()
        synthesisers = [Buzz() for _ in range(workers)]
    opened = Company(synthesisers, seed)
    try:
        yield opened
    finally:
        opened.close()
