"""From shards to batches: batching by length, epoch order, mixtures of corpora, exact resume."""
