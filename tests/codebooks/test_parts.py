"""Which piece of a job a process is."""

from __future__ import annotations

import pytest

from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.system.errors import UserError

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8"}


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_parts_are_the_whole_without_doubles(of):
    dealt = [JobShard.parse(f"{number}/{of}").deal(range(20)) for number in range(1, of + 1)]
    assert sorted(item for part in dealt for item in part) == list(range(20))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ARRAY, JobShard(2, 4)),
        (SRUN, JobShard(1, 2)),
        (TORCHRUN, JobShard(3, 8)),
        (SRUN | TORCHRUN, JobShard(3, 8)),  # torchrun, started by srun
        (ARRAY | SRUN, JobShard(5, 8)),  # two tasks of each of four pieces
    ],
)
def test_auto_goes_by_the_surroundings(environment, expected, monkeypatch):
    for name in ARRAY | SRUN | TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert JobShard.parse("auto") == expected


def test_tasks_and_ranks_together_are_all_pieces_once():
    parts = {
        JobShard.from_environment(
            ARRAY | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2"}
        )
        for task in range(5, 9)
        for rank in range(2)
    }
    assert parts == {JobShard(number, 8) for number in range(8)}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/0", ""])
def test_mistakes(text):
    with pytest.raises(UserError, match="write I/N from 1/N to N/N"):
        JobShard.parse(text)


def test_auto_without_anything_to_go_by():
    with pytest.raises(UserError, match="neither a SLURM job array nor ranks"):
        JobShard.from_environment({"SLURM_ARRAY_TASK_ID": "1"})
    with pytest.raises(UserError, match="without gaps, as --array=1-4 does"):
        JobShard.from_environment(ARRAY | {"SLURM_ARRAY_TASK_ID": "9"})
