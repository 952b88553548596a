"""Verbs that make what an encoder or a recogniser learns from: codebooks, language models, alignments, pseudo-labels.

One module a verb, as in `cli`; `MODULES` of `cli` names them. Tests: `tests/workflows`.
"""
