"""What the cards say in one sentence, whichever way it went."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wavlm_lightning.reports.cards import ResultCard

# Figures are compared as the tables show them: what looks like a tie is called one.
SHOWN_DECIMALS = 1


@dataclass
class Comparison:
    """The tasks on which one upstream is better than, worse than or level with another."""

    wins: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """The number of tasks that both upstreams have a figure for."""
        return len(self.wins) + len(self.losses) + len(self.ties)


def latest(cards: Iterable[ResultCard]) -> dict[tuple[str, str], ResultCard]:
    """The newest card of each (task, upstream label), in the order in which the pairs first appear."""
    chosen: dict[tuple[str, str], ResultCard] = {}
    for card in cards:
        key = (card.task, card.upstream["label"])
        if key not in chosen or card.created >= chosen[key].created:
            chosen[key] = card
    return chosen


def compare_values(first: float, second: float, better: str) -> int:
    """1 if `first` is the better one, -1 if it is worse, 0 if they look the same at the precision shown."""
    difference = round(first, SHOWN_DECIMALS) - round(second, SHOWN_DECIMALS)
    if abs(difference) < 10**-SHOWN_DECIMALS / 2:
        return 0
    return 1 if (difference < 0) == (better == "lower") else -1


def compare(cards: Iterable[ResultCard], subject: str, rival: str, tasks: Sequence[str] = ()) -> Comparison:
    """Compares two upstreams, given by their labels, task by task on the main metric.

    Args:
        cards: any cards; those of other upstreams are passed over.
        subject: label of the upstream that wins or loses.
        rival: label of the other.
        tasks: the tasks to expect; by default those that any card is about.
    """
    chosen = latest(cards)
    result = Comparison()
    for task in tasks or dict.fromkeys(task for task, _ in chosen):
        ours, theirs = chosen.get((task, subject)), chosen.get((task, rival))
        if ours is None or theirs is None or ours.headline != theirs.headline:
            result.missing.append(task)
            continue
        outcome = compare_values(ours.value, theirs.value, ours.main["better"])
        {1: result.wins, -1: result.losses, 0: result.ties}[outcome].append(task)
    return result


def verdict_sentence(
    cards: Iterable[ResultCard], subject: str, rivals: Sequence[str], tasks: Sequence[str] = ()
) -> str:
    """One or two sentences on how the subject fares against its rivals.

    Example:
        >>> verdict_sentence(cards, "pre-trained", ["random weights", "FBANK"])
        'The pre-trained encoder beats random weights on 3 of 3 tasks and FBANK on 2 of 3; FBANK is ahead on SID.'
    """
    cards = list(cards)
    comparisons = [(rival, compare(cards, subject, rival, tasks)) for rival in rivals]
    seen = [(rival, result) for rival, result in comparisons if result.compared]
    if not seen:
        return "There is nothing to compare yet: no task has been tested on two of the upstreams."
    winners = [pair for pair in seen if pair[1].wins]
    losers = [pair for pair in seen if not pair[1].wins]
    clauses = []
    if winners:
        parts = [
            f"{rival} on {len(result.wins)} of {result.compared}" + (_tasks(result.compared) if index == 0 else "")
            for index, (rival, result) in enumerate(winners)
        ]
        clauses.append("beats " + _and(parts))
    if losers:
        parts = [
            f"{rival} on any of {result.compared}" + (_tasks(result.compared) if not winners and index == 0 else "")
            for index, (rival, result) in enumerate(losers)
        ]
        clauses.append("does not beat " + _and(parts, "or"))
    details = [f"{rival} is ahead on {_and(result.losses)}" for rival, result in seen if result.losses]
    details += [f"it is level with {rival} on {_and(result.ties)}" for rival, result in seen if result.ties]
    sentence = f"The {subject} encoder " + " but ".join(clauses)
    sentence += ("; " + ", ".join(details) if details else "") + "."
    missing = [f"{_and(result.missing)} against {rival}" for rival, result in comparisons if result.missing]
    return sentence + (f" Not measured: {_and(missing)}." if missing else "")


def _tasks(count: int) -> str:
    return " task" if count == 1 else " tasks"


def _and(words: Sequence[str], conjunction: str = "and") -> str:
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + f" {conjunction} " + words[-1]
