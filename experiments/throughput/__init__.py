"""The one benchmark: ours beside transformers, torchaudio and the original implementation; see README.md."""
