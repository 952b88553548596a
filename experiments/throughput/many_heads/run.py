"""Seven learning rates from one pass against seven runs; see README.md."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import lightning.pytorch as pl
import torch

from wavlm_lightning.tasks import PhonemeRecognition, SlotFilling, Task, TaskData
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Upstream, WavLMUpstream
from wavlm_lightning.workflows.fit.messages import quiet

RATES = [10.0**-k for k in range(1, 8)]
TASKS: dict[str, type[Task]] = {"pr": PhonemeRecognition, "sf": SlotFilling}


def seconds(
    model: pl.LightningModule, arguments: argparse.Namespace, clock: Callable[[], float] | None = None
) -> float:
    """How long a fit takes: updates, one validation at the end, logging; without checkpoints.

    By default, on a CPU, seconds of the process' CPU time, which do not mind who else uses the machine; on a GPU, wall time.
    """
    clock = clock or (time.perf_counter if arguments.accelerator == "cuda" else time.process_time)
    data = TaskData(arguments.corpus, batch_size=arguments.batch_size)
    trainer = pl.Trainer(
        accelerator=arguments.accelerator,
        devices=1,
        precision=arguments.precision,
        max_steps=arguments.updates,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=arguments.updates,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    begin = clock()
    trainer.fit(model, data)
    if arguments.accelerator == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def heads(arguments: argparse.Namespace, upstream: Upstream) -> list[Task]:
    """Fresh ones of SUPERB's size, one a rate."""
    return [TASKS[arguments.task](upstream, rate) for rate in RATES]


def main() -> None:
    """Take turns, and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--task", choices=tuple(TASKS), default="pr")
    parser.add_argument("--upstream", default="base")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true")
    arguments = parser.parse_args()
    upstream = WavLMUpstream(arguments.upstream)
    ratios, together, apart = [], [], []
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds(heads(arguments, upstream)[0], argparse.Namespace(**{**vars(arguments), "updates": 1}))
        for _ in range(arguments.rounds):
            together.append(
                seconds(ManyHeads({repr(h.learning_rate): h for h in heads(arguments, upstream)}), arguments)
            )
            apart.append(sum(seconds(head, arguments) for head in heads(arguments, upstream)))
            ratios.append(apart[-1] / together[-1])
            print(f"together {together[-1]:.2f} s, apart {apart[-1]:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(
        f"medians: together {statistics.median(together):.2f} s, apart {statistics.median(apart):.2f} s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
