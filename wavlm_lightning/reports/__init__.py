"""Result cards, tables, plots and the pages made of them; the top floor, which nothing below imports."""

from wavlm_lightning.reports.cards import ResultCard, find_cards

__all__ = ["ResultCard", "find_cards"]
