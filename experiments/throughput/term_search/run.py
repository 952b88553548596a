"""QbE: pairs of query and document per second, ours against scipy's distances and dtw-python's warping (see README.md).

Example:
    python experiments/throughput/term_search/run.py --cores 1 2 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from wavlm_lightning.tasks.search.compiled_dtw import CompiledQueries
from wavlm_lightning.tasks.search.subsequence_dtw import Distance, pack_queries, subsequence_costs

Pair = tuple[np.ndarray, np.ndarray]


def features(query_frames: int, document_frames: int, dim: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """40 queries `(frames, 2 layers, dim)` and 8 documents `(2 layers, 8, frames, dim)` of noise, always the same."""
    torch.manual_seed(0)
    queries = [torch.randn(query_frames, 2, dim) for _ in range(40)]
    return queries, torch.randn(2, 8, document_frames, dim)


class Peer:
    """scipy and dtw-python, called as s3prl's `quesst14_dtw` does."""

    pairs: ClassVar[list[Pair]] = []
    wide: ClassVar[list[Pair]] = []

    @classmethod
    def begin(cls, *sizes: int) -> None:
        """Make the pairs inside the worker process, so that nothing is sent to it."""
        torch.set_num_threads(1)
        threadpool_limits(1)
        queries, documents = features(*sizes)
        cls.pairs = [(q[:, layer].numpy(), d.numpy()) for layer in (0, 1) for d in documents[layer] for q in queries]
        cls.wide = [(query.astype(float), document.astype(float)) for query, document in cls.pairs[:200]]

    @classmethod
    def cost(cls, distance: Distance, kindly: bool, place: int) -> float:
        """Of one pair; kindly: from float64 features and without the path, neither of which s3prl does."""
        from dtw import dtw
        from scipy.spatial.distance import cdist

        matrix = cdist(*(cls.wide if kindly else cls.pairs)[place], distance.removesuffix("_exp"))
        if distance == "cosine_exp":
            matrix = np.exp(matrix) - 1
        low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
        scaled = (matrix - low) / (high - low)
        path = dtw(scaled, step_pattern="asymmetric", open_begin=True, open_end=True, distance_only=kindly)
        return path.normalizedDistance


def compare(
    cores: int = 1,
    distance: Distance = "cosine_exp",
    rounds: int = 5,
    query_frames: int = 50,
    document_frames: int = 500,
    dim: int = 768,
    peer_pairs: int = 60,
    clock: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Rates of all ways, alternated; the features are noise, which costs what speech costs.

    Args:
        cores: for every way: threads of ours, processes of the peers' (s3prl gives each pair to a process of a pool).
        distance: see `wavlm_lightning.tasks.search.subsequence_dtw`.
        rounds: in each of which every way takes its turn.
        query_frames: of each of 40 queries.
        document_frames: of each of 8 documents, in 2 layers.
        dim: of a frame.
        peer_pairs: pairs a core that the peers are timed on.
        clock: by default CPU time on one core, where all happens in this process, so that it does not matter who else
            uses the machine; else the wall clock.

    Returns:
        `rates` by way, pairs a second in each round, and `pairs_per_second`, their medians; `ratio` of ours by each way
        (median over the rounds of the ratio in a round, lowest, highest), and the largest difference of costs from the
        peers' (`difference`).
    """
    sizes = query_frames, document_frames, dim
    queries, documents = features(*sizes)
    lengths = torch.full((documents.shape[1],), document_frames)
    all_pairs = documents.shape[0] * documents.shape[1] * len(queries)
    places = range(peer_pairs * cores)
    clock = clock or (time.process_time if cores == 1 else time.perf_counter)
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    with contextlib.ExitStack() as stack:
        spread: Callable[..., Any] = map
        if cores > 1:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(cores, context, Peer.begin, sizes))
            spread = partial(pool.map, chunksize=5)
        else:
            Peer.begin(*sizes)
        packed = pack_queries([query[:, :1] for query in queries], distance)
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "ours": (all_pairs, lambda: CompiledQueries(queries, distance).costs(documents, lengths)),
            "ours, torch": (all_pairs // 2, lambda: subsequence_costs(packed, documents[:1], lengths, distance)),
            "scipy + dtw-python": (len(places), lambda: list(spread(partial(Peer.cost, distance, False), places))),
            "the same, float64 features, no path kept": (
                len(places),
                lambda: list(spread(partial(Peer.cost, distance, True), places)),
            ),
        }
        theirs = ways["scipy + dtw-python"][1]()  # also wakes the processes
        ours = ways["ours"][1]()[0].T.flatten()[: len(theirs)]  # and compiles
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (pairs, run) in ways.items():
                begin = clock()
                run()
                rates[name].append(pairs / (clock() - begin))
    torch.set_num_threads(before)
    ratios = {name: np.divide(rates["ours"], rate) for name, rate in rates.items()}
    return {
        "cores": cores,
        "distance": distance,
        "pairs_per_second": {name: float(np.median(rate)) for name, rate in rates.items()},
        "rates": rates,
        "ratio": {name: [float(f(ratio)) for f in (np.median, np.min, np.max)] for name, ratio in ratios.items()},
        "difference": float(np.abs(ours.numpy() - np.array(theirs)[: len(ours)]).max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, and JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[1])
    parser.add_argument("--distances", nargs="+", default=["cosine_exp"], choices=get_args(Distance))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    chosen = parser.parse_args(arguments)
    found = [compare(cores, distance, chosen.rounds) for cores in chosen.cores for distance in chosen.distances]
    print("| cores | distance | way | pairs/s | ours is faster by (lowest to highest round) |\n|---|---|---|---|---|")
    for one in found:
        for name, rate in one["pairs_per_second"].items():
            middle, low, high = one["ratio"][name]
            print(
                f"| {one['cores']} | {one['distance']} | {name} | {rate:.0f} | {middle:.1f} ({low:.1f} to {high:.1f}) |"
            )
        print(f"largest difference from the peers' costs: {one['difference']:.1e}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
