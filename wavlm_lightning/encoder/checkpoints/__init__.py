"""Reading and writing encoder weights: Hugging Face folders, unilm and torchaudio files, shards of FSDP2."""
