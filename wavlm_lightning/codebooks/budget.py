"""How much memory the features of k-means may take on this machine."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 4
"""A quarter: the rest is for encoders (one a process), the page cache of the shards, and whoever else is there."""


def default_budget_gib() -> float:
    """A quarter of the memory that this process may use, GiB: of the machine, or less in a container or a job."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(pages, *_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")), pages) / 2**30 / SHARE


def _limits(membership: Path, root: Path) -> list[int]:
    """Memory limits in bytes of the control groups that a process is in, innermost first; none where there are none.

    Args:
        membership: its `/proc/PID/cgroup`.
        root: where control groups are mounted.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        # Version 2 has one tree and no names; version 1 has one for memory.
        tree, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        if controllers and "memory" not in controllers.split(","):
            continue
        inner = Path(group.lstrip("/"))
        for folder in (inner, *inner.parents):
            try:
                value = (tree / folder / name).read_text().strip()
            except OSError:
                continue
            if value.isdecimal():
                limits.append(int(value))
    return limits
