"""Corpora from Python: `prepare` (`wavlm prepare`), `check` and `info` (`wavlm data`)."""
