"""Result cards, tables, plots and pages. Importing them imports no torch.

Reading order: `cards` (one JSON file per tested run), `aggregate` (means over folds, choice of the learning rate), `curves`
(reads `metrics.csv`), `tables`, `superb_table` (our rows among SUPERB's published ones), `theme`, `plots` and `figures` (how
pictures look, what they show, how they are laid out), `page` (blocks to HTML and Markdown), `examples` (sounds that a test
keeps), `runs` (the report of many runs).

May import `encoder`, `system`, `audio`, `metrics` and `augment`. Tests: `tests/reports`.
"""

from wavlm_lightning.reports.cards import ResultCard, find_cards

__all__ = ["ResultCard", "find_cards"]
