"""Memory budget for the features of k-means on this machine, container or job."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 4  # features get a quarter; the rest is for encoders (one per process), the page cache and other processes


def default_budget_gib() -> float:
    """A quarter of the memory that this process may use, GiB."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(pages, *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")), pages) / 2**30 / SHARE


def _limits(membership: Path, root: Path) -> list[int]:
    """Memory limits in bytes of the control groups in `/proc/PID/cgroup`, innermost first; they are mounted at `root`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # cgroup v2 has a single tree without controller names; v1 has a tree for memory.
        tree, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        inner = Path(group.lstrip("/"))
        for folder in (inner, *inner.parents):
            try:
                value = (tree / folder / name).read_text().strip()
            except OSError:
                continue
            if value.isdecimal():
                limits.append(int(value))
    return limits
