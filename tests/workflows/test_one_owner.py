"""Two commands on one folder at once: the second one ends with one sentence, and the first one is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.files import Busy, locked, own_folder

# The verb -> its words before the folder, the option of the folder, and the words after it.
VERBS: dict[str, tuple[list[str], str, list[str]]] = {
    "export": (["export", "{made}/encoder.pt"], "", []),
    "superb": (["superb", "fbank", "--data", "{tiny}", "--tasks", "ks"], "--output", []),
    "codebook fit": (["codebook", "fit", "{tiny}/pretrain", "--clusters", "8"], "--out", []),
    "codebook phones": (["codebook", "phones", "{tiny}/pretrain"], "--out", []),
    "codebook score": (["codebook", "score", "{tiny}/pretrain", "--encoder", "{made}/encoder.pt"], "--out", []),
    "units": (["units", "fbank", "--data", "{tiny}/pretrain", "--unit", "phone", "--context", "any"], "--out", []),
    "pseudo-label": (["pseudo-label", "{made}/run", "{tiny}/pretrain"], "--out", []),
    "demo": (["demo", "--size", "tiny"], "--out", []),
    "recipe": (["recipe", "configs/pretrain/tiny_waveform.yaml", "--corpus", "{tiny}/pretrain"], "--out", []),
    "average": (["average", "{made}/run"], "--out", []),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_second_one_is_refused(verb, tiny, tmp_path, capsys):
    before, option, after = VERBS[verb]
    WavLM(WavLMConfig.tiny()).save_pretrained(tmp_path / "encoder.pt")
    out = tmp_path / "out"
    words = [word.format(tiny=tiny, made=tmp_path) for word in before]
    with own_folder(out, verb):
        (out / "mine").touch()
        assert main([*words, *filter(None, [option]), str(out), *after]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert f"{out}: another `wavlm {verb}` writes there; wait for it, or choose another {option}" in said[-1]
        assert sorted(path.name for path in out.iterdir()) == [".lock", "mine"]
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_second_sweep_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / "lock"):
        assert main(["sweep", "configs/sweeps/pretrain.yaml", "--output", str(out)]) == 2
    assert f"another `wavlm sweep` is running in {out}; wait for it" in capsys.readouterr().err


def test_one_data_set_of_the_mini_corpus(tmp_path, capsys):
    words = ["prepare", "mini", "--size", "tiny", "--workers", "1", "--out", str(tmp_path), "--datasets"]
    with own_folder(tmp_path / "sv", "prepare mini"):
        assert main([*words, "ks", "sv"]) == 2
        assert f"{tmp_path / 'sv'}: another `wavlm prepare mini` writes there" in capsys.readouterr().err
        assert not (tmp_path / "ks").exists()  # nothing is left of what was not begun


def test_one_set_of_alignments(tiny, tmp_path, capsys):
    corpus = shutil.copytree(tiny / "pr", tmp_path / "pr")
    (tmp_path / "times.ctm").write_text("pr-train-0000 1 0 0.1 AE\n")
    with own_folder(corpus / "alignments" / "mfa", "align", "--name"):
        assert main(["align", "--from", "ctm", str(tmp_path / "times.ctm"), str(corpus), "--name", "mfa"]) == 2
    assert "alignments/mfa: another `wavlm align` writes there; wait for it" in capsys.readouterr().err
    assert not (corpus / "alignments" / "mfa").exists()


def test_parts_of_labels_at_the_same_time_but_none_twice(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    with own_folder(folder, "codebook apply", "--name", (0, 3)):
        with own_folder(folder, "codebook apply", "--name", (1, 3)):
            names = sorted(path.name for path in folder.iterdir())
            assert names == [".part-1-of-3.lock", ".part-2-of-3.lock"]
        with (
            pytest.raises(Busy, match="another `wavlm codebook apply` --part 1/3 writes there"),
            own_folder(folder, "codebook apply", "--name", (0, 3)),
        ):
            pass
    assert not folder.exists()  # made for a lock alone


def test_what_a_killed_one_has_left_is_removed(tmp_path: Path) -> None:
    for name in (".part-2-of-4.lock", f"labels.json.{'0' * 32}.tmp", ".lock"):
        (tmp_path / name).touch()
    with own_folder(tmp_path, "codebook apply"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())
