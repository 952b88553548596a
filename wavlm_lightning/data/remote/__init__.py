"""Corpora behind a URL: `mirror` (the local folder), `transport` (downloads), `cache_space` (the bounded cache)."""
