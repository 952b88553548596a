"""`wavlm align`: times of letters, phones and words of a corpus from a trained CTC head, beside its shards."""

from wavlm_lightning.workflows.align.aligner import Aligner, Unaligned, read_pronunciations
from wavlm_lightning.workflows.align.corpus import align_corpus
from wavlm_lightning.workflows.align.shards import AlignedCorpus

__all__ = ["AlignedCorpus", "Aligner", "Unaligned", "align_corpus", "read_pronunciations"]
