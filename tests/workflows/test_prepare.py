"""`wavlm prepare` knows every recipe, says what each does, and imports nothing heavy to say it."""

import argparse
import importlib
import re
import subprocess
import sys

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpora import RECIPES

NEEDED = {
    "ami": ["--setup", "nowhere"],
    "voxceleb1": ["--task", "sid"],
    "libri2mix": ["--labels", "nowhere"],
    "libri2mix_target": ["--enrolments", "nowhere"],
    "gigaspeech": ["--subset", "XS"],
    "voxpopuli": ["--kind", "asr", "--language", "en"],
    "common_voice": ["--language", "es"],
    "covost2": ["--translations", "nowhere"],
}
"""Options without which a recipe does not know what is wanted."""


def test_help_names_every_recipe(capsys):
    with pytest.raises(SystemExit) as status:
        main(["prepare", "--help"])
    assert status.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name}\s", text, re.MULTILINE) for name in ("mini", "folder", *RECIPES))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_the_interface(name, capsys):
    recipe = importlib.import_module(RECIPES[name])
    assert 10 < len(recipe.HELP) < 100 and "\n" not in recipe.HELP
    recipe.add_arguments(argparse.ArgumentParser())
    assert callable(recipe.plan)
    with pytest.raises(SystemExit) as status:
        main(["prepare", name, "--help"])
    assert status.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("DIR", "--out", "--workers", "--on-error", "--allow-partial"))


@pytest.mark.parametrize("name", RECIPES)
def test_no_folder_is_one_sentence(name, tmp_path, capsys):
    assert main(["prepare", name, str(tmp_path / "nowhere"), "--out", str(tmp_path / "c"), *NEEDED.get(name, [])]) == 2
    message = capsys.readouterr().err
    assert message.startswith("wavlm prepare: ") and message.count("\n") == 1 and "no such folder" in message


def test_an_unknown_recipe_lists_those_there_are(capsys):
    with pytest.raises(SystemExit) as status:
        main(["prepare", "librispeach"])
    assert status.value.code == 2
    text = capsys.readouterr().err
    assert "librispeech" in text and "folder" in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom wavlm_lightning.cli import main\n"
        "try: main(['prepare', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'torchaudio', 'numpy', 'soundfile', 'lightning', 'webdataset'} & set(sys.modules)\n"
        "sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
