"""`wavlm predict`: a trained head on recordings."""
