"""A wheel built from the checkout works in a fresh environment, outside the repository, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; nothing of this checkout is on its path."""
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ROOT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """An environment with the wheel; its dependencies are those of this environment, its copy of the package is not."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder / "dist", ROOT, cwd=folder)
    (wheel,) = (folder / "dist").glob("wavlm_lightning-*.whl")
    venv.create(folder / "venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}))
    # Plain folders only: an editable install is a .pth file, which Python reads in its own site-packages alone.
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", *options[1:], wheel, cwd=folder)
    (folder / "elsewhere").mkdir()
    return folder


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(fresh):
    python, wavlm, here = fresh / "venv" / "bin" / "python", fresh / "venv" / "bin" / "wavlm", fresh / "elsewhere"
    where = run(python, "-c", "import wavlm_lightning; print(wavlm_lightning.__file__)", cwd=here)
    assert Path(where.strip()).is_relative_to(fresh / "venv")
    assert "--head-steps" in run(wavlm, "demo", "--help", cwd=here)
    printed = run(wavlm, "fit", "-c", "configs/pretrain/tiny_waveform.yaml", "--print_config", cwd=here)
    assert "WavLMPretraining" in printed and "max_steps: 2600" in printed
    run(wavlm, "new", "task", "my_task", cwd=here)
    assert {path.name for path in here.iterdir()} == {"my_task.py", "my_task.yaml"}
    shipped = run(
        python,
        "-c",
        "from wavlm_lightning.system.shipped_configs import configs_folder; print(configs_folder())",
        cwd=here,
    )
    inside = {path.relative_to(shipped.strip()) for path in Path(shipped.strip()).rglob("*") if path.is_file()}
    tracked = run("git", "ls-files", "configs", cwd=ROOT).split()
    assert inside == {Path(name).relative_to("configs") for name in tracked}
