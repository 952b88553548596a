"""Fast paths of the encoder on processors; each is tested against the plain PyTorch operation it replaces."""
