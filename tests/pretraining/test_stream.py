"""The stream as a run meets it: two processes with two workers, mixtures, windows, resuming at every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from ranks import together
from stream_two_ranks import an_epoch
from test_pretraining_runs import data, fit, module

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.loading.mixture import Source
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.pretraining import PretrainingData
from wavlm_lightning.system.errors import UserError


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, tiny) -> Path:
    """The tiny corpus' training split twice, in shards of 1, 2, 3, ... utterances, with labels."""
    from wavlm_lightning.codebooks import Codebook, label_corpus

    folder = tmp_path_factory.mktemp("uneven")
    writer = CorpusWriter(folder / "pretrain", "uneven", "CC0", {}, shard_seconds=0.1)
    split = Corpus.open(tiny / "pretrain").split("train")
    stream = (
        Utterance(f"{key}-{turn}", audio, meta) for turn in range(2) for key, audio, meta in list(split.utterances())
    )
    for size in range(1, 20):
        part = [utterance for _, utterance in zip(range(size), stream, strict=False)]
        if part:
            writer.shard_samples = sum(len(utterance.waveform) for utterance in part)
            writer.write_split("train", part)
    corpus = writer.finish({})
    label_corpus(corpus, Codebook.load(tiny / "codebook"), "mfcc100")
    return folder


@pytest.mark.slow
def test_two_ranks_two_workers_uneven_shards(uneven, tmp_path):
    """Everything that fills whole rounds of batches is given to exactly one process, and no process waits for ever."""
    split = Corpus.open(uneven / "pretrain").split("train")
    sizes = [shard.utterances for shard in split.shards]
    assert len(sizes) > 3 and len(set(sizes)) > 2
    together(2, tmp_path / "log", an_epoch, uneven, tmp_path)
    files = [sorted(tmp_path.glob(f"keys-{rank}-*.jsonl")) for rank in range(2)]
    assert [len(each) for each in files] == [2, 2]  # workers
    read = [[json.loads(line) for file in each for line in file.read_text().splitlines()] for each in files]
    steps = [json.loads((tmp_path / f"steps{rank}.json").read_text()) for rank in range(2)]
    assert steps[0] == steps[1] == len(read[0]) == len(read[1]) > 2
    seen = [key for batches in read for batch in batches for key in batch]
    assert len(seen) == len(set(seen)) and set(seen) <= set(split.keys)
    # Nothing is dropped but, where the number of batches is odd, one of them.
    assert len(split) - len(seen) <= max(len(batch) for batches in read for batch in batches)


def test_ranks_together_give_everything_over_the_epochs(uneven):
    """What an epoch drops, because the ranks are to make equally many steps, others bring."""
    seen: set[int] = set()
    for epoch in range(4):
        for rank in range(2):
            source = data(uneven, batch_seconds=4.0, min_seconds=0.0, shuffle_shards=2, valid_split=None)
            source.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2, "accumulate_grad_batches": 1})()
            source.setup("fit")
            plan = source.train_dataloader().sampler
            plan.set_epoch(epoch)
            seen |= {number for batch in plan for number, _ in batch}
    assert seen == set(range(len(Corpus.open(uneven / "pretrain").split("train"))))


@pytest.mark.slow
def test_resume_at_every_step_of_a_run_in_windows(uneven, tmp_path):
    changes = {"batch_seconds": 6.0, "shuffle_shards": 2, "valid_split": None}
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model = module()
    whole = fit(model, data(uneven, **changes), 8, callbacks=[saver])
    final = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 8):
        resumed = module()
        rest = fit(resumed, data(uneven, **changes), 8, tmp_path / f"step={step}.ckpt")
        assert rest.batches == whole.batches[step:] and rest.losses == whole.losses[step:]
        assert all(torch.equal(value, final[name]) for name, value in resumed.state_dict().items())
    with pytest.raises(UserError, match="resume: shuffle_shards of this run is 3, the checkpoint has 2"):
        fit(module(), data(uneven, **{**changes, "shuffle_shards": 3}), 8, tmp_path / "step=3.ckpt")


@pytest.fixture
def position(tiny):
    """What a checkpoint of a run on two processes holds."""
    source = data(tiny)
    source.setup("fit")
    return {"epoch": 0, "batch": 1, "layout": {**source.layout(), "world_size": 2}}


def test_another_world_size_is_refused(tiny, position):
    source = data(tiny)
    source.trainer = type("Trainer", (), {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1})()
    source.setup("fit")
    source.load_state_dict(position)
    with pytest.raises(UserError, match="resume: world_size of this run is 1, the checkpoint has 2"):
        source.train_dataloader()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_split": "valid"}, "train_split of this run is valid, the checkpoint has None"),
        ({"noise_corpus": "ks"}, "noise of this run is .*, the checkpoint has None"),
    ],
)
def test_other_audio_or_noise_is_refused(tiny, change, message):
    def opened(**changes):
        source = data(tiny, **changes)
        source.trainer = type("Trainer", (), {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 1})()
        source.setup("fit")
        return source

    if "noise_corpus" in change:
        change = {"noise_corpus": str(tiny / change["noise_corpus"])}
    saved = {"epoch": 0, "batch": 1, "layout": {**opened().layout(), "world_size": 1}}
    other = opened(**change)
    other.load_state_dict(saved)
    with pytest.raises(UserError, match=f"resume: {message}"):
        other.train_dataloader()


def test_what_min_seconds_leaves_out_is_printed_once_by_the_first_process(tiny, capsys):
    samples = Corpus.open(tiny / "pretrain").split("train").samples
    limit = float(np.median(samples)) / 16_000
    short = samples < limit * 16_000
    assert short.any() and not short.all()
    for rank in range(2):
        source = data(tiny, min_seconds=limit)
        source.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2, "accumulate_grad_batches": 1})()
        source.setup("fit")
        source.setup("validate")
    share = 100 * samples[short].sum() / samples.sum()
    assert capsys.readouterr().err == (
        f"note: data.min_seconds {limit:g} leaves out {short.sum()} of {len(samples)} utterances of split 'train', {share:.1f} % "
        "of its audio\n"
    )
    data(tiny, min_seconds=float(samples.min()) / 16_000).setup("fit")
    assert capsys.readouterr().err == ""


def mixed(tiny: Path, uneven: Path, weights=(0.75, 0.25), **changes) -> PretrainingData:
    paths = (tiny / "pretrain", uneven / "pretrain")
    sources: list[str | Source] = [Source(str(path), weight) for path, weight in zip(paths, weights, strict=True)]
    settings = {"batch_seconds": 5.0, "max_seconds": 2.0, "min_seconds": 1.0, "labels": "mfcc100"}
    return PretrainingData(sources, **{**settings, **changes})


def test_mixture_gives_shares_and_every_crop_its_labels(tiny, uneven):
    source = mixed(tiny, uneven)
    source.setup("fit")
    crops, plan = source.train_dataloader().dataset, source.train_dataloader().sampler
    first = len(Corpus.open(tiny / "pretrain").split("train"))
    seconds = np.zeros(2)
    for epoch in range(12):
        plan.set_epoch(epoch)
        for items in plan:
            for number, _ in items:
                place = int(crops.numbers[number])
                seconds[int(place >= first)] += min(crops.split.samples[place], 32_000)
    assert abs(seconds[0] / seconds.sum() - 0.75) < 0.05
    rows = {0: Corpus.open(tiny / "pretrain"), 1: Corpus.open(uneven / "pretrain")}
    from wavlm_lightning.codebooks import LabelSet

    theirs = [row for corpus in rows.values() for row in LabelSet.open(corpus, "mfcc100", "train").rows]
    ours = crops.labels["mfcc100"].rows
    assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
    assert crops[next(iter(plan))].labels["mfcc100"].shape[0] > 0


def test_a_mixture_resumes_and_refuses_other_weights(tiny, uneven, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(module(), mixed(tiny, uneven), 6, callbacks=[saver])
    rest = fit(module(), mixed(tiny, uneven), 6, tmp_path / "step=4.ckpt")
    assert rest.batches == whole.batches[4:] and rest.losses == whole.losses[4:]
    with pytest.raises(UserError, match="resume: weights of this run"):
        fit(module(), mixed(tiny, uneven, weights=(0.5, 0.5)), 6, tmp_path / "step=4.ckpt")


def test_labels_of_several_codebooks_are_refused(tiny, uneven, tmp_path):
    shutil.copytree(uneven / "pretrain", tmp_path / "pretrain")
    path = tmp_path / "pretrain" / "labels" / "mfcc100"
    from wavlm_lightning.codebooks import MfccFeatures, fit_kmeans, label_corpus

    shutil.rmtree(path)
    corpus = Corpus.open(tmp_path / "pretrain")
    label_corpus(corpus, fit_kmeans(corpus, MfccFeatures(), 8, restarts=1), "mfcc100")
    with pytest.raises(UserError, match="one codebook on all corpora"):
        mixed(tiny, tmp_path).setup("fit")


def test_the_command_line_takes_one_corpus_or_a_list(tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(PretrainingData, "data")
    given = tmp_path / "data.yaml"
    given.write_text("corpus: [{path: a, weight: 0.7}, {path: 'b-{00..03}', weight: 0.3}]\n")
    for arguments, paths in ((["--data.corpus", "a"], ["a"]), ([f"--data={given}"], ["a", "b-{00..03}"])):
        made = parser.instantiate(parser.parse_args(arguments)).data
        assert [source.path for source in made.sources] == paths
    assert made.weights == [0.7, 0.3]
    given.write_text("corpus: [a, b]\n")
    assert parser.instantiate(parser.parse_args([f"--data={given}"])).data.weights == []
