"""`wavlm pseudo-label`: a recogniser transcribes a corpus, and what it is sure of becomes a corpus to train a student on.

Each shard is heard once: its transcripts and scores go to `OUT/pseudo_labels/SPLIT-NNNNNN.jsonl`, so that an interrupted call
goes on, and another share or score needs no second hearing. The corpus in `OUT` links to the audio and has records of its own.
"""

from wavlm_lightning.workflows.pseudo_label.selection import Candidate, chosen, error_rate
from wavlm_lightning.workflows.pseudo_label.transcribe import pseudo_label

__all__ = ["Candidate", "chosen", "error_rate", "pseudo_label"]
