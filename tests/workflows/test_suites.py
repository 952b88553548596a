"""Suites of `wavlm superb`: tasks known by their YAML, runs that start from other runs, control rows."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.data.shuffled_labels import permute_labels
from wavlm_lightning.reports.cards import PERMUTED, ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.upstreams.specs import LABELLED
from wavlm_lightning.workflows.new import write_template
from wavlm_lightning.workflows.superb import suites
from wavlm_lightning.workflows.superb.cells import UpstreamSpec, check_corpora, plan_cell
from wavlm_lightning.workflows.superb.controls import permuted_row
from wavlm_lightning.workflows.superb.suites import (
    chains,
    check_tasks,
    config_name,
    configuration,
    head_class,
    suite_tasks,
)

pytestmark = pytest.mark.usefixtures("quick_processes")
FULL = suite_tasks("full")
OTHERS = [task for task in FULL if task not in suites.COST]


def a_task(folder: Path, name: str, like: str, **changes) -> str:
    """The YAML of a task of the user's: `like` a mini one, with other arguments of its model."""
    content = yaml.safe_load((configs_folder() / "superb" / "mini" / f"{like}.yaml").read_text())
    content["model"]["init_args"].update(changes)
    content["trainer"]["default_root_dir"] = f"runs/mini/heads/{name}"
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def dry(capsys, *arguments) -> list[list[str]]:
    assert main(["superb", *map(str, arguments), "--dry-run"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


# Out-of-domain ASR has one mini data set, and a published one for each language.
LONE = {"ood_asr", "ood_asr_es", "ood_asr_zh", "ood_asr_ar", "ood_asr_sbcsae"}

# No label can be given to another utterance: the target is the sound itself.
WITHOUT = {"se", "ss", "vocoder", "noisy_front_end", "vc", "vc_content", "vc_knn"}


def test_tasks_of_the_full_suite_have_both_configurations():
    assert FULL[: len(suites.COST)] == list(suites.COST) == suite_tasks("superb")
    assert set(suite_tasks("full", True)) ^ set(suite_tasks("full", False)) <= LONE
    for mini in (True, False):
        for task in suite_tasks("full", mini):
            assert (configs_folder().parent / config_name(task, mini)).is_file(), (task, mini)
            assert configuration(task, mini)["trainer"]["default_root_dir"], task
        chain = chains(suite_tasks("full", mini), mini)
        order = [*chain]
        assert all(order.index(needed) < order.index(task) for task in order for needed in chain[task])
        assert order.index("sv") < order.index("diarization")


def test_a_task_is_found_by_its_yaml(tmp_path, monkeypatch):
    """A file in `configs/fullstack/mini` is all that a task of the full suite needs."""
    home = tmp_path / "configs"
    for part in ("superb", "sweeps"):
        (home / part).mkdir(parents=True)
        (home / part).rmdir()
        (home / part).symlink_to(configs_folder() / part)
    (home / "fullstack" / "mini").mkdir(parents=True)
    text = Path(a_task(tmp_path, "probe", "ks", learning_rate=3e-5)).read_text()
    for place in ("fullstack", "fullstack/mini"):
        (home / place / "probe.yaml").write_text(text)
    monkeypatch.setattr(suites, "configs_folder", lambda: home)
    assert suite_tasks("full") == [*suites.COST, "probe"] and suite_tasks("superb") == list(suites.COST)
    assert config_name("probe", True) == "configs/fullstack/mini/probe.yaml"
    assert check_tasks(["probe", "KS"]) == ["ks", "probe"]
    assert suites.official_rates("probe") == [3e-5]
    assert suites.cost("probe", True) == pytest.approx(suites.PER_KS)  # as many utterances as KS
    (home / "fullstack" / "mini" / "probe.yaml").unlink()
    assert suite_tasks("full", True) == list(suites.COST) and "probe" in suite_tasks("full", False)
    with pytest.raises(UserError, match="'probe' has a configuration for published corpora alone"):
        check_tasks(["probe"], mini=True)
    assert check_tasks(["probe"], mini=False) == ["probe"]
    with pytest.raises(UserError, match=r"'prob' is not one .* others \(probe\).*did you mean 'probe'"):
        check_tasks(["prob"])
    with pytest.raises(UserError, match="is no task of --suite superb"):
        check_tasks(["probe"], "superb")


def test_the_template_of_a_task_and_a_short_name_are_tasks_of_a_suite(tiny, tmp_path):
    """`wavlm new task` passes the rate on to `Task`, which has no default for it; `wavlm fit` takes short names."""
    template = write_template("task", "a_head_of_mine", tmp_path)[-1]
    text = template.read_text().replace("a_head_of_mine.AHeadOfMine", "KeywordSpotting").replace("hidden: 128", "")
    (tmp_path / "short.yaml").write_text(text.replace("wavlm_lightning.tasks.TaskData", "TaskData"))
    tasks = [str(template), str(tmp_path / "short.yaml")]
    check_corpora(tasks, tiny, mini=True)
    assert [head_class(task, True).__name__ for task in tasks] == ["AHeadOfMine", "KeywordSpotting"]
    (tmp_path / "short.yaml").write_text(text.replace("KeywordSpotting", "KeywordSpoting"))
    with pytest.raises(
        UserError, match=r"short.yaml: model.class_path KeywordSpoting: no head .* MODULE.KeywordSpoting"
    ):
        check_corpora(tasks, tiny, mini=True)


def test_labels_of_texts_are_those_of_the_split_that_the_yaml_names(tiny, tmp_path):
    shutil.copytree(tiny / "translation", tmp_path / "translation")
    record = tmp_path / "translation" / "corpus.json"
    content = json.loads(record.read_text())
    content["splits"]["mine"] = content["splits"].pop("train")
    record.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no split 'train'"):
        check_corpora(["st"], tmp_path, mini=True)
    task = yaml.safe_load((configs_folder() / "fullstack" / "mini" / "st.yaml").read_text())
    task["data"]["init_args"]["train_split"] = "mine"
    (tmp_path / "my_st.yaml").write_text(yaml.safe_dump(task))
    check_corpora([str(tmp_path / "my_st.yaml")], tmp_path, mini=True)


def test_mistakes_of_a_task_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        check_tasks([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="would share a folder"):
        check_tasks(["ks", a_task(tmp_path, "ks", "ks")])
    (tmp_path / "half.yaml").write_text("model: {init_args: {}}\n")
    with pytest.raises(UserError, match="as a task of a suite it needs"):
        configuration(str(tmp_path / "half.yaml"), True)
    one = a_task(tmp_path, "one", "sd", start_from="runs/mini/heads/two")
    two = a_task(tmp_path, "two", "sd", start_from="runs/mini/heads/one/checkpoints/best.ckpt")
    with pytest.raises(UserError, match="needs its own run"):
        chains([one, two], True)


def test_a_chain_brings_the_run_that_it_starts_from(tiny, tmp_path, capsys):
    task = a_task(tmp_path, "tuned", "sd", start_from="runs/mini/heads/sd/checkpoints/best.ckpt")
    common = ["fbank", "--data", tiny, "--output", tmp_path / "out", "--tasks", task]
    commands = dry(capsys, *common)
    assert [(words[1], Path(value(words, "-c")).stem) for words in commands] == [
        ("fit", "sd"), ("test", "sd"), ("fit", "tuned"), ("test", "tuned"),
    ]  # fmt: skip
    assert "--model.start_from" not in commands[0]
    best = tmp_path / "out" / "fbank" / "sd" / "checkpoints" / "best.ckpt"
    assert value(commands[2], "--model.start_from") == str(best)
    # Of several learning rates the run is not known before they are trained.
    searched = dry(capsys, *common, "--search", "1e-3", "1e-4")
    assert "CHOSEN" in value(searched[2], "--model.start_from")


def test_a_front_end_and_a_head_are_trained_before_both(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["fbank", "--data", tiny, "--output", out, "--tasks", "noisy_asr_joint", "--controls", "permuted"]
    _, *commands = [words for words in dry(capsys, *common) if words[1] != "test"]
    control = "FBANK-permuted-labels"
    # The front-end, whose target is sound, has no control; that of the plain row is in front of both.
    expected = [
        ("fbank", "noisy_front_end"),
        *((row, name) for name in ("noisy_asr", "noisy_asr_joint") for row in ("fbank", control)),
    ]
    assert sorted(value(words, "--trainer.default_root_dir") for words in commands) == sorted(
        str(out / row / name) for row, name in expected
    )
    for words, row in zip(commands[-2:], ("fbank", control), strict=True):
        assert value(words, "--model.front_end_from") == str(out / "fbank" / "noisy_front_end")
        assert value(words, "--model.start_from") == str(out / row / "noisy_asr")


def test_rates_of_a_trained_encoder_have_runs_of_their_own(tiny, tmp_path):
    upstream = {"class_path": "wavlm_lightning.upstreams.WavLMUpstream", "init_args": {"source": "x", "frozen": False}}
    task = a_task(tmp_path, "tuned", "ks", upstream=upstream, noise_corpus="runs/mini/noise")
    cell = plan_cell(task, UpstreamSpec.parse("fbank"), tiny, tmp_path, mini=True, rates=[1e-3, 1e-4], steps=None)
    folder = tmp_path / "fbank" / "tuned"
    assert cell.results() == {rate: [folder / f"learning-rate-{rate!r}"] for rate in (1e-3, 1e-4)}
    assert [value([*run.options], "--model.learning_rate") for run in cell.runs] == ["0.001", "0.0001"]
    assert not any(run.heads for run in cell.runs)
    # Other corpora that the YAML names lie beside the task's own.
    assert value([*cell.runs[0].options], "--model.noise_corpus") == str(tiny / "noise")


@pytest.mark.slow
def test_a_chain_and_the_controls_run(tiny, tmp_path, capsys):
    """The chosen rate of the first run is where the second begins; a second call of all repeats nothing."""
    task = a_task(tmp_path, "tuned", "sd", start_from="runs/mini/heads/sd")
    out = tmp_path / "out"
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(out), "--tasks", task, "er", "--steps", "1"]
    arguments += ["--search", "1e-3", "1e-4", "--controls", "chance", "permuted", "--jobs", "2"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    for folder in ("fbank", "FBANK-permuted-labels"):
        card = ResultCard.read(out / folder / "sd")
        second = ResultCard.read(out / folder / "tuned" / f"learning-rate-{1e-3!r}")
        assert Path(second.started["checkpoint"]).parents[1] == out / folder / "sd" / card.details["run"]
    table = (out / "superb.md").read_text().splitlines()
    assert [line.split(" |")[0] for line in table[2:5]] == ["| FBANK", "| FBANK, permuted labels", "| chance"]
    assert "SD (tuned) DER % ↓" in table[0] and "25.00" in table[4]
    assert "SD (tuned) has no published leaderboard here" in said
    with (out / "superb.csv").open() as file:
        assert all(row["SD (tuned)_der (%)"] for row in csv.DictReader(file))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("card.json")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("card.json")} == before


def test_permuted_corpora_are_made_by_printed_commands(tiny, tmp_path, capsys):
    commands = dry(
        capsys, "fbank", "--data", tiny, "--output", tmp_path, "--tasks", "pr", "asr", "--controls", "permuted"
    )
    assert [words[1] for words in commands] == ["data", *(["fit", "test"] * 4)]
    assert commands[0] == ["wavlm", "data", "permute", f"{tiny / 'pr'}", "--out", f"{tmp_path / 'permuted' / 'pr'}"]
    control = [words for words in commands if str(tmp_path / "permuted" / "pr") in words][1:]
    assert len(control) == 4
    assert all(value(words, "--model.upstream.label") == "FBANK, permuted labels" for words in control)
    assert main(["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path), "--controls", "chanc"]) == 2
    assert "did you mean 'chance'" in capsys.readouterr().err


def test_permuted_audio_keeps_labels_and_other_audio(tiny, tmp_path):
    """The control of a task whose target is audio: the enrolment is that of another utterance, all else stays."""
    rows = [*Corpus.open(tiny / "pr").split("train").utterances()][:6]
    writer = CorpusWriter(tmp_path / "c", "c", "CC0", {"recipe": "mine"})
    writer.write_split(
        "train",
        [
            Utterance(key, wave, {**meta, "number": n}, audio={"clean": wave / 2, "enrolment": rows[n][1][: 4000 + n]})
            for n, (key, wave, meta) in enumerate(rows)
        ],
    )
    corpus = writer.finish({"speakers": ["a"]})
    permuted = permute_labels(corpus, tmp_path / "p", audio=["enrolment"])
    assert permuted.name.endswith(PERMUTED)  # by which a card is one of a control
    split = permuted.split("train")
    assert [meta["number"] for _, _, meta in split.utterances()] == list(range(6))
    lengths = []
    for number in range(6):
        shard, place = split.locate(number)
        audio = shard.further_audio(place)
        assert len(audio["clean"]) == len(shard.waveform(place))
        lengths.append(len(audio["enrolment"]) - 4000)
    assert sorted(lengths) == list(range(6)) and not any(n == number for number, n in enumerate(lengths))
    with pytest.raises(UserError, match="other"):
        permute_labels(corpus, tmp_path / "q", audio=["other"])


def test_a_permuted_corpus_of_other_data_is_made_again(tiny, tmp_path):
    from wavlm_lightning.workflows.superb.controls import PermutedCorpora

    made = PermutedCorpora(["ks"], tiny, tmp_path, True)
    made.make()
    path = tmp_path / "permuted" / "ks" / "corpus.json"
    stamp = path.stat().st_mtime_ns
    made.make()
    assert path.stat().st_mtime_ns == stamp
    body = json.loads(path.read_text())
    body["source"]["permuted_of"] = "0" * 64
    path.write_text(json.dumps(body))
    made.make()
    assert json.loads(path.read_text())["source"]["permuted_of"] == Corpus.open(tiny / "ks").sha256


@pytest.mark.parametrize("task", OTHERS)
def test_a_task_says_how_its_permuted_control_is_made(task):
    """Labels, or the further input of a task whose target is audio; a task whose only input is that sound has none."""
    kind = head_class(task, task in suite_tasks("full", True))
    assert task in WITHOUT or (kind.extra_audio if kind.target_audio else kind.read_target)
    assert task not in WITHOUT or (kind.target_audio and not kind.extra_audio)


def test_the_control_row_of_a_folder_has_a_label_that_can_be_read():
    word = permuted_row(UpstreamSpec("runs/mine", "wavlm_lightning.upstreams.WavLMUpstream", {"source": "runs/mine"}))
    assert word == "runs-mine, permuted labels=runs/mine" and LABELLED.fullmatch(word)


def test_tasks_without_permuted_labels_alone_have_no_such_row(tmp_path, capsys):
    """The row would hold the true labels."""
    words = ["fbank", "--data", "mini", "--controls", "permuted", "--output", tmp_path / "out", "--tasks"]
    label = "FBANK, permuted labels"
    assert not any(label in words_of for words_of in dry(capsys, *words, "se", "ss"))
    assert any(label in words_of for words_of in dry(capsys, *words, "se", "ks"))
