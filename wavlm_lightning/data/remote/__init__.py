"""Corpora behind a URL: downloads, a bounded cache on disk, checks of what arrived."""
