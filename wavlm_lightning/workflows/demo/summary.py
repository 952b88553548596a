"""What the demo's report says beside its figures: the facts of the run, and how to go on."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from wavlm_lightning.codebooks import Codebook
from wavlm_lightning.codebooks.quality import label_quality
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.demo_text import DemoSummary
from wavlm_lightning.system.hardware import cpu_bf16_instructions, processor_name


def demo_summary(out: Path, labels: str, seconds: dict[str, float]) -> DemoSummary:
    """Collect the facts from what the stages left.

    Args:
        out: the demo's folder.
        labels: name of the codebook labels.
        seconds: wall time of each stage.
    """
    corpus = Corpus.open(out / "corpus" / "pretrain")
    train = corpus.split("train")
    quality = label_quality(corpus, labels, "train")
    run = out / "pretrain"
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    weights = sum(v.numel() for k, v in state["state_dict"].items() if k.startswith(("encoder.", "objectives.")))
    return DemoSummary(
        corpus=f"{corpus.name}, {corpus.body['source'].get('synthesiser', 'synthetic speech')}",
        minutes=train.seconds / 60,
        speakers=len({meta["speaker"] for meta in train.metas()}),
        clusters=Codebook.load(out / "codebook").size,
        pnmi=quality.pnmi if quality else None,
        purity=quality.phone_purity if quality else None,
        unigram=quality.unigram if quality else None,
        parameters=weights,
        steps=state["global_step"],
        audio_seconds=state["global_step"] * config["data"]["init_args"]["batch_seconds"],
        stages=seconds,
        machine={
            "machine": f"{processor_name()}, {torch.get_num_threads()} threads",
            "precision": config["trainer"]["precision"],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        },
    )


def precision() -> str:
    """bf16 where the hardware has it, else fp32 (which takes about 1.7 times as long on a CPU)."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if cpu_bf16_instructions() else "32-true"


def next_commands(out: Path, labels: str) -> list[tuple[str, str]]:
    """(what for, command) pairs."""
    head = "-c configs/superb/mini/ks.yaml --model.upstream.source runs/mine --trainer.default_root_dir runs/mine-ks"
    return [
        ("Give the encoder to anybody who uses transformers", f"wavlm export {out / 'pretrain'} {out / 'encoder'}"),
        ("Prepare your own recordings", "wavlm prepare folder RECORDINGS --out data/mine"),
        (
            "Tokenise them",
            "wavlm codebook fit data/mine --clusters 100 --out data/codebook\n"
            f"wavlm codebook apply data/codebook data/mine --name {labels}",
        ),
        (
            "Pre-train on them",
            "wavlm fit -c configs/pretrain/tiny.yaml --data.corpus data/mine --trainer.default_root_dir runs/mine",
        ),
        ("Train a head on what you pre-trained", f"wavlm fit {head}\nwavlm test {head} --ckpt_path best"),
    ]
