"""Whole training steps, reading of audio and optimiser included: our Trainer and a peer's loop, step by step in turns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.system.timing import CLOCKS, Rounds, wait_for_gpu
from wavlm_lightning.workflows.fit.messages import quiet


class InTurns(pl.Callback):
    """Times our steps, and lets the peer make one after each of ours.

    Ours is timed from the end of the peer's step to the end of our own: the loader, Lightning and logging are in it.

    Args:
        ours: what to call our steps.
        peer: what to call the peer's.
        peer_step: makes one of them.
        clock: `wall` or `processor`.
        tick: called after each step.
    """

    def __init__(
        self, ours: str, peer: str, peer_step: Callable[[], object], clock: str, tick: Callable[[], object]
    ) -> None:
        self.ours, self.peer, self.peer_step, self.clock, self.tick = ours, peer, peer_step, clock, tick
        self.rounds = Rounds({ours: [], peer: []})
        self.started: float | None = None

    def on_train_batch_end(self, *arguments: Any) -> None:
        now = CLOCKS[self.clock]
        wait_for_gpu()
        if self.started is None:  # the first step of either warms up
            self.peer_step()
        else:
            self.rounds.seconds[self.ours].append(now() - self.started)
            self.tick()
            self.rounds.seconds[self.peer].append(seconds_of(self.peer_step, self.clock))
            self.tick()
        self.started = now()


def time_steps(
    model: pl.LightningModule, data: pl.LightningDataModule, turns: InTurns, rounds: int, **trainer: Any
) -> Rounds:
    """Fit for as many steps as there are rounds, and one to warm up.

    Args:
        model: what to train.
        data: on what.
        turns: does the timing.
        rounds: steps that are timed.
        **trainer: more for Lightning's Trainer.
    """
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(
            max_steps=rounds + 1,
            callbacks=[turns],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            devices=1,
            **trainer,
        ).fit(model, data)
    return turns.rounds


def seconds_of(run: Callable[[], object], clock: str) -> float:
    """Seconds of one call."""
    wait_for_gpu()
    start = CLOCKS[clock]()
    run()
    wait_for_gpu()
    return CLOCKS[clock]() - start
