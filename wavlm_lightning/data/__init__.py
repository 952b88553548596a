"""Corpora, shards and batches: from recordings on disk to what a training step gets."""
