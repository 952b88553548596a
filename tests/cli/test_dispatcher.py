"""The command: instant help, one-sentence errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wavlm_lightning.cli import VERBS, main, module_of


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "wavlm_lightning", *arguments], capture_output=True, text=True, **options
    )


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


def test_help_imports_nothing_heavy():
    """What makes help instant; the time itself is measured by hand (0.02 s), not by a test."""
    code = (
        "import sys; from wavlm_lightning.cli import main; main(['--help']); main(['--version']);"
        "heavy = {'torch', 'numpy', 'lightning', 'jsonargparse', 'webdataset', 'wandb'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(("verb", "hint"), [("prepair", "did you mean 'prepare'?"), ("xyz", "`wavlm --help`")])
def test_unknown_verb(capsys, verb, hint):
    assert main([verb]) == 2
    assert hint in capsys.readouterr().err


def test_missing_corpus_is_one_sentence(capsys, tmp_path):
    assert main(["data", "info", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("wavlm data: ") and message.count("\n") == 1


def test_data_info_and_check(tiny, tmp_path, capsys):
    import shutil

    assert main(["data", "info", str(tiny / "ks")]) == 0
    assert "train: " in (text := capsys.readouterr().out) and "keywords: 12" in text
    shutil.copytree(tiny / "ks", tmp_path / "ks")
    assert main(["data", "check", str(tmp_path / "ks")]) == 0
    shard = tmp_path / "ks" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    assert main(["data", "check", str(tmp_path / "ks")]) == 2
    assert "damaged shards: train-000000.tar" in capsys.readouterr().err
    assert main(["data", "info", str(tiny)]) == 2
    assert (
        "holds the corpora accents, enhancement, er, ic, ks, meetings, mos, noisy, pr, pretrain, qbe, sd, separation, sf, sid, "
        "sv, target, translation, voices" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("codebook apply x y", "the same command continues where it stopped"),
        ("fit -c x.yaml", "the same command with `--ckpt_path last` continues where it stopped"),
        ("fit -c x.yaml --ckpt_path last", "the same command continues where it stopped"),
        ("predict x y --out z", "the same command continues where it stopped"),
        ("predict x y", "the same command begins again"),
        ("data info x", "the same command begins again"),
    ],
)
def test_interrupted_command_says_how_to_go_on(monkeypatch, capsys, command, hint):
    def interrupt(argv):
        raise KeyboardInterrupt

    words = command.split()
    monkeypatch.setattr(module_of(words[0]), "main", interrupt)
    assert main(words) == 130
    assert capsys.readouterr().err.startswith(f"wavlm {words[0]}: interrupted; {hint}")


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error():
    """`wavlm plan wavlm_base | head -1`."""
    command = f"{sys.executable} -m wavlm_lightning plan wavlm_base | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout and not done.stderr
