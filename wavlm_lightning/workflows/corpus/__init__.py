"""`wavlm data`: what a corpus holds and whether it is whole."""
