"""`wavlm recipe`: all stages of a published pre-training."""
