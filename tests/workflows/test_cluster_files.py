"""The scripts of configs/cluster, run by bash with a stand-in for SLURM and torchrun; a real cluster is not here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.plan.cluster import fill, time_limit
from wavlm_lightning.workflows.recipe.chain import chain

FOLDER = configs_folder() / "cluster"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_CPUS_PER_TASK": "7",
}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """srun, scontrol and torchrun that only write down, a word a line, how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "torchrun"):
        (folder / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >> {tmp_path}/called\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "called"


def made(name: str, system: str, *options: str) -> None:
    assert main(["plan", name, "--cluster", system, "--out", "jobs", *options]) == 0


def understood(words: list[str], capsys) -> None:
    """`wavlm fit` knows every option; it prints what it would do with them."""
    capsys.readouterr()
    assert words[0] == "fit"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert ended.value.code in (0, None), capsys.readouterr().err


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_the_files_as_they_are(name):
    assert len(SCRIPTS) == 3
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)
    text = (FOLDER / name).read_text()
    assert text.startswith("#!/bin/bash\n# ") and "set -euo pipefail" in text
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize("resumed", ["", "last.ckpt", "last.ckpt.old"])
def test_a_slurm_job_fits(stand_ins, capsys, resumed):
    made("wavlm_base", "slurm", "--gpus", "16")
    if resumed:
        Path(f"runs/wavlm_base/checkpoints/{resumed}").mkdir(parents=True)  # a sharded checkpoint is a folder
    subprocess.run(["bash", "jobs/slurm_fit.sh"], check=True)
    words = stand_ins.read_text().splitlines()
    assert words[:4] == ["srun", "--cpus-per-task", "7", "wavlm"]
    understood(words[4:], capsys)
    assert (value(words, "--trainer.num_nodes"), value(words, "--trainer.devices")) == ("2", "8")
    assert value(words, "--trainer.accumulate_grad_batches") == "2"  # written for 8 GPUs and 4
    assert ("--ckpt_path" in words) == bool(resumed)


def test_a_job_whose_time_is_nearly_over_is_queued_again(stand_ins):
    made("wavlm_base", "slurm")
    # It hands SIGTERM on, and ends when its tasks have written their checkpoint.
    (stand_ins.parent / "bin" / "srun").write_text(
        f"#!/bin/bash\ntrap 'echo checkpoint >> {stand_ins}; exit 1' TERM\necho srun >> {stand_ins}\n"
        "for _ in {1..100}; do sleep 0.1; done\n"
    )
    process = subprocess.Popen(["bash", "jobs/slurm_fit.sh"], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not stand_ins.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert "job 4711 is requeued" in process.communicate(timeout=60)[0]
    assert stand_ins.read_text().split() == ["srun", "checkpoint", "scontrol", "requeue", "4711"]


def test_torchrun_fits(stand_ins, capsys):
    made("wavlm_large", "torchrun", "--gpus", "12", "--nodes", "3")
    subprocess.run(["bash", "jobs/torchrun_fit.sh"], check=True)
    words = stand_ins.read_text().splitlines()
    assert (value(words, "--nnodes"), value(words, "--nproc-per-node")) == ("3", "4")
    ours = words[words.index("wavlm_lightning") + 1 :]
    understood(ours, capsys)
    assert (value(ours, "--trainer.num_nodes"), value(ours, "--trainer.devices")) == ("3", "4")
    # 16 GPUs x 8 are 12 x 11 of a little less audio each.
    steps, seconds = value(ours, "--trainer.accumulate_grad_batches"), value(ours, "--data.batch_seconds")
    assert steps == "11" and 12 * 11 * float(seconds) == pytest.approx(16 * 8 * 56.25, rel=1e-5)


def test_a_job_array_labels(tiny, stand_ins, capsys, monkeypatch):
    made("wavlm_base", "slurm", "--gpus", "4")
    text = Path("jobs/slurm_labels.sh").read_text()
    assert "#SBATCH --array=1-4\n" in text and "#SBATCH --gpus-per-task=1\n" in text
    refused = subprocess.run(["bash", "jobs/slurm_labels.sh"], capture_output=True, text=True)
    assert refused.returncode == 2 and not stand_ins.exists()
    fit = re.search(r"first run: wavlm (codebook fit .*)$", refused.stderr, flags=re.M)
    assert fit is not None
    asked = ["--encoder runs/hubert_base_it1 --layer 6", "--clusters 500", "--share 0.1", "fit data/librispeech960"]
    assert all(words in fit[1] for words in asked)
    assert main(fit[1].split()) == 2  # understood: it stops because the encoder is missing
    assert "runs/hubert_base_it1" in capsys.readouterr().err

    book = Path("runs/codebooks/hubert_base_it1-l6-k500")
    book.parent.mkdir(parents=True)
    book.symlink_to(tiny / "codebook")
    Path("data").mkdir()
    shutil.copytree(tiny / "pretrain", "data/librispeech960")
    subprocess.run(["bash", "jobs/slurm_labels.sh"], check=True)
    words = stand_ins.read_text().splitlines()
    assert words[:4] == ["srun", "--cpus-per-task", "7", "wavlm"]
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
    for name, number in zip(names, ("4", "4", "1"), strict=True):
        monkeypatch.setenv(name, number)
    assert main([*words[4:], "--splits", "train"]) == 0
    assert "shards of part 4/4 labelled now" in capsys.readouterr().out
    label_set = chain("wavlm_base")[-1].content["data"]["init_args"]["labels"]
    assert value(words, "--name") == label_set


def test_cepstra_need_no_gpu_and_no_labels_no_array(stand_ins):
    made("hubert_base_it1", "slurm")
    assert "gpus-per-task" not in Path("jobs/slurm_labels.sh").read_text()
    Path("jobs/slurm_labels.sh").unlink()
    made("wav2vec2_base", "slurm")
    assert not Path("jobs/slurm_labels.sh").exists()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in ("tiny", "wavlm_base") else pytest.mark.slow)
        for path in sorted((configs_folder() / "pretrain").glob("*.yaml"))
    ],
)
@pytest.mark.parametrize("system", ["slurm", "torchrun"])
def test_every_configuration_gets_scripts_that_bash_can_read(path, system, capsys):
    gpu = ["--gpu", "a100"] if path.stem.startswith("tiny") else []
    assert main(["plan", path.stem, "--cluster", system, "--print", *gpu]) == 0
    text = capsys.readouterr().out
    assert f"CONFIG=configs/pretrain/{path.name}\n" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["wavlm_base", "--cluster", "slurm", "--nodes", "3"], "--nodes 3: 8 GPUs cannot be divided among them"),
        (["tiny", "--cluster", "slurm"], "is planned for a CPU; name the GPUs"),
    ],
)
def test_mistakes(capsys, options, message):
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err


def test_options_without_cluster(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "wavlm_base", "--nodes", "2"])
    assert "go with --cluster" in capsys.readouterr().err


def test_a_file_that_lost_a_line_is_not_filled_in(tmp_path, monkeypatch):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "slurm_fit.sh").write_text("#SBATCH --nodes=1\n")
    monkeypatch.setattr("wavlm_lightning.workflows.plan.cluster.configs_folder", lambda: tmp_path)
    assert fill("slurm_fit.sh", {"nodes": 3}, {}) == "#SBATCH --nodes=3\n"
    with pytest.raises(UserError, match="one line that begins with RUN="):
        fill("slurm_fit.sh", {}, {"RUN": "runs/x"})


@pytest.mark.parametrize(("hours", "text"), [(0.0, "0-01:00:00"), (2.0, "0-04:00:00"), (22.3, "1-11:00:00")])
def test_time_limits(hours, text):
    assert time_limit(hours) == text
