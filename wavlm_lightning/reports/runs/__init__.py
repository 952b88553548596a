"""The report of `wavlm report` and `wavlm demo`: results, layers, curves, cost and setup of any number of run folders.

Reading order: `report` (puts the page together), `results` (cards to one result per task and upstream), `curves` (curves and
pre-training runs below a folder), `tables`, `layers`, `sounds` (players), `figures` (panels of the
pictures), `text` (captions and sentences).
"""
