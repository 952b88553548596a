"""Spoken term search by dynamic time warping, for query by example (QbE).

`term_search` is the entry; it calls `subsequence_dtw` (torch, the reference) on a GPU and `compiled_dtw` (numba) on a CPU.
Tests: `tests/tasks/test_subsequence_dtw.py`.
"""
