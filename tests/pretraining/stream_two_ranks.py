"""Run by test_stream: an epoch on two processes with two workers each; every worker writes down what it reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

from quiet import quiet_trainer
from test_pretraining_runs import data, module

from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.pretraining.crops import Crops


class Counting(WavLMPretraining):
    """Counts its steps."""

    steps = 0

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """One more."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.steps += 1


def an_epoch(corpus: Path, out: Path) -> None:
    rank, read = int(os.environ["LOCAL_RANK"]), Crops.__getitem__

    def noted(crops, items):
        """Read a batch, and append its keys to the file of this worker."""
        keys = []
        for number, _ in items:
            shard, place = crops.split.locate(int(crops.numbers[number]))
            keys.append(shard.keys[place])
        with (out / f"keys-{rank}-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(keys) + "\n")
        return read(crops, items)

    Crops.__getitem__ = noted  # type: ignore[method-assign]
    model = module(Counting)
    trainer = quiet_trainer(max_epochs=1, max_steps=1000, devices=2, strategy="ddp", limit_val_batches=0)
    trainer.fit(
        model, data(corpus, num_workers=2, batch_seconds=4.0, min_seconds=0.0, shuffle_shards=2, valid_split=None)
    )
    (out / f"steps{trainer.global_rank}.json").write_text(json.dumps(model.steps))
