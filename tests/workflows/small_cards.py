"""A result card of a keyword head, as small as a card can be."""

from __future__ import annotations

from typing import Any

from wavlm_lightning.reports.cards import ResultCard


def ks_card(**changes: Any) -> ResultCard:
    """Two utterances, 91.5 % right; `changes` are fields of the card."""
    return ResultCard(
        **{
            "task": "KS",
            "metrics": {"accuracy": {"value": 91.5, "unit": "%", "better": "higher"}},
            "headline": "accuracy",
            "corpus": {"name": "c", "path": "p", "split": "test", "utterances": 2, "seconds": 2.0},
            "upstream": {
                "label": "f",
                "class": "Fbank",
                "sha256": "",
                "parameters": 0,
                "frame_rate": 100.0,
                "layers": 1,
            },
            "learning_rate": 1e-3,
            "seed": 0,
            "steps": 10,
            "best_step": 10,
            **changes,
        }
    )
