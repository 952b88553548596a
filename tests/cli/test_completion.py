"""Shell completion: bash itself completes with the script."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from wavlm_lightning.cli import VERBS, main
from wavlm_lightning.cli.completion import _actions, whole_parser

TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"
_shtab_wavlm
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert main(["--completion", "bash"]) == 0
    path = folder / "completion.bash"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["re"], {"recipe", "report"}),
        (["fit", "--trainer.max_"], {"--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time"}),
        (["fit", "--model", "Keyw"], {"KeywordSpotting"}),
        (["test", "--ckpt"], {"--ckpt_path"}),
        (["fit", "--al"], {"--also"}),
        (["fit", "--keep"], {"--keep_checkpoints"}),
        (["data", "ch"], {"check"}),
        (["prepare", "librispeech", "--o"], {"--out", "--on-error"}),
        (["new", "ta"], {"task"}),
        (["lm", "tun"], {"tune"}),
        (["lm", "tests/data/minia"], {"tests/data/miniature.py"}),
        (["lm", "tune", "RUN", "--tr"], {"--trials"}),
        (["lm", "TEXT", "--or"], {"--order"}),
    ],
)
def test_bash_completes(script, typed, wanted):
    done = subprocess.run(["bash", "-c", TRY, "bash", str(script), "wavlm", *typed], capture_output=True, text=True)
    assert set(done.stdout.split()) == wanted, done.stderr


def test_every_verb_has_its_options():
    parser = whole_parser()
    verbs = next(action.choices for action in parser._actions if action.dest != "help")
    assert set(verbs) == set(VERBS)
    for verb, child in verbs.items():
        assert any(action.option_strings and action.dest != "help" for action in _actions(child)) or verb == "new"


def test_zsh_and_an_unknown_shell(capsys):
    pytest.importorskip("shtab")
    assert main(["--completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef wavlm")
    assert main(["--completion", "cmd"]) == 2
    assert "needs one of bash, zsh, tcsh" in capsys.readouterr().err
