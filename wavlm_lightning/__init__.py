"""Pre-train WavLM on your own speech and know, the same day, how good the encoder is.

Importing the package imports nothing heavy; `wavlm_lightning.encoder`, `.tasks`, ... bring what they need.
"""

__version__ = "0.1.0"
