"""Memory limits of containers and jobs, as Linux writes them."""

from __future__ import annotations

import os

from wavlm_lightning.codebooks.budget import _limits, default_budget_gib


def test_a_quarter_of_the_machine_at_most():
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert 0 < default_budget_gib() <= machine / 4


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_all_groups_around(tmp_path):
    write(tmp_path / "cgroup", "0::/job_7/step_0\n")
    write(tmp_path / "fs/job_7/step_0/memory.max", "max\n")
    write(tmp_path / "fs/job_7/memory.max", "8589934592\n")
    assert _limits(tmp_path / "cgroup", tmp_path / "fs") == [8 * 2**30]


def test_limits_of_version_1(tmp_path):
    write(tmp_path / "cgroup", "5:cpu,cpuacct:/job_7\n4:memory:/job_7\n")
    write(tmp_path / "fs/memory/job_7/memory.limit_in_bytes", "1073741824\n")
    write(tmp_path / "fs/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "fs/cpu/job_7/memory.limit_in_bytes", "1\n")
    assert _limits(tmp_path / "cgroup", tmp_path / "fs") == [2**30, 9223372036854771712]
    assert _limits(tmp_path / "nowhere", tmp_path / "fs") == []
