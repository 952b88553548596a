import pytest

from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.reports.runs.curves import find_pretraining
from wavlm_lightning.system.errors import UserError


def write(path, text):
    path.write_text(text)
    return path


def test_sparse_columns_become_separate_series(metrics_csv):
    curves = read_curves([metrics_csv])
    assert curves["valid/loss"].steps == [100, 200]
    assert len(curves["train/loss"].steps) == 20
    assert curves["valid/majority_accuracy"].last == 0.04
    assert curves.last_step == 200
    assert "epoch" not in curves.series and "step" not in curves.series


def test_a_resumed_run_is_one_curve_and_the_later_file_wins(tmp_path):
    first = write(tmp_path / "1.csv", "step,train/loss\n10,5.0\n20,4.0\n30,3.5\n")
    second = write(tmp_path / "2.csv", "train/loss,step,valid/loss\n4.5,20,\n,30,2.0\n2.5,40,\n")
    curves = read_curves([first, second])
    assert curves["train/loss"].steps == [10, 20, 30, 40]
    assert curves["train/loss"].values == [5.0, 4.5, 3.5, 2.5]
    assert curves["valid/loss"].values == [2.0]
    assert read_curves([second, first])["train/loss"].values == [5.0, 4.0, 3.5, 2.5]


def test_a_line_cut_short_and_nan_are_left_out(tmp_path):
    path = write(tmp_path / "m.csv", "step,train/loss,x\n10,5.0,1\n20,nan,2\n30,0.e")
    curves = read_curves([path])
    assert curves["train/loss"].steps == [10]
    assert curves["x"].steps == [10, 20]


def test_files_that_are_not_there_yet_are_empty(tmp_path):
    assert not read_curves([tmp_path / "metrics.csv", write(tmp_path / "empty.csv", "")])
    assert not read_curves([write(tmp_path / "header.csv", "step,train/loss\n")])
    assert read_curves([]).get("train/loss") is None


def test_names_that_lightning_splits_are_found(tmp_path):
    curves = read_curves([write(tmp_path / "m.csv", "step,train/loss_step,train/loss_epoch\n10,5.0,\n20,,4.0\n")])
    assert "train/loss" in curves
    assert curves["train/loss"].values == [5.0]
    with pytest.raises(KeyError):
        curves["valid/loss"]


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"other\.csv has no column `step`"):
        read_curves([write(tmp_path / "other.csv", "path,speaker\na,b\n")])
    with pytest.raises(UserError, match=r"bad\.csv, line 2"):
        read_curves([write(tmp_path / "bad.csv", "step,loss\n10,high\n20,1.0\n")])


def test_the_file_of_a_csv_logger_is_no_run_of_its_own(tmp_path):
    """`RUN/csv/version_0/metrics.csv` repeats the curves of RUN; without such curves it is all there is of the run."""
    for path in ("run/curves/version_0", "run/csv/version_0", "alone/csv/version_0"):
        (tmp_path / path).mkdir(parents=True)
        write(tmp_path / path / "metrics.csv", "step,train/loss,train/masked_accuracy\n10,5.0,0.1\n")
    problems: list[str] = []
    runs = find_pretraining([tmp_path], [], problems, str)
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs] == ["alone/csv/version_0", "run"]
    assert not problems
