"""What `--print_config` prints is the same configuration; what changing a class drops is said; nothing is linked."""

from __future__ import annotations

from argparse import ArgumentError

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.system.yaml_files import parse_yaml
from wavlm_lightning.workflows.fit.command_line import WavLMCLI, command_line, saved_content

CONFIGS = sorted(
    str(path.relative_to(configs_folder()))
    for folder in ("superb", "pretrain", "finetune", "fullstack")
    for path in (configs_folder() / folder).rglob("*.yaml")
)
KS = ["-c", "configs/superb/mini/ks.yaml"]


def printed(capsys, *options: str) -> tuple[str, str]:
    """What `wavlm fit ... --print_config` says, and the notes beside it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options, "--print_config"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    return said.out, said.err


class _Found(Exception):
    """Carries the parser of a command out of it."""


@pytest.fixture(scope="module")
def parser():
    """The parser of `wavlm fit`, built once: that takes three times as long as to parse a configuration."""

    def stop(self, parser, args):
        raise _Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WavLMCLI, "parse_arguments", stop)
        with pytest.raises(_Found) as found:
            command_line(["fit"], run=True)
    return found.value.args[0]


@pytest.mark.slow
def test_every_config_printed_and_parsed_again_is_the_same(parser, tmp_path, capsys):
    def parse(path) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            parser.parse_args(["fit", "-c", str(path), "--print_config"])
        said = capsys.readouterr()
        assert not said.err
        return said.out

    assert len(CONFIGS) > 25
    for config in CONFIGS:
        first = parse(configs_folder() / config)
        (tmp_path / "printed.yaml").write_text(first)
        assert parse(tmp_path / "printed.yaml") == first, config
        shown = parse_yaml(first)
        given = parse_yaml((configs_folder() / config).read_text())
        for key in ("model", "data"):
            assert shown[key]["class_path"] == given[key]["class_path"]
            assert set(given[key]["init_args"]) <= set(shown[key]["init_args"])


def test_what_another_class_does_not_take_is_said(capsys):
    shown, notes = printed(capsys, *KS, "--model", "QueryByExample")
    assert notes == (
        "note: QueryByExample replaces KeywordSpotting and does not take 'learning_rate': 0.001, which is dropped\n"
    )
    assert "learning_rate" not in yaml.safe_load(shown)["model"]["init_args"]
    _, notes = printed(capsys, *KS, "--model.upstream", "Fbank")
    assert "Fbank replaces WavLMUpstream and does not take 'source'" in notes and notes.count("\n") == 1
    shown, notes = printed(capsys, *KS, "--model", "EmotionRecognition")
    assert not notes and yaml.safe_load(shown)["model"]["init_args"]["learning_rate"] == 1e-3


def test_nothing_is_linked(parser):
    """jsonargparse ignores a value that is given for the target of a link, without a word; so there is no link."""
    from jsonargparse._link_arguments import ActionLink

    for command in parser._subcommands_action.choices.values():
        assert not [action for action in command._actions if isinstance(action, ActionLink)]


def test_only_what_is_called_is_built_and_what_is_kept_is_what_a_full_check_keeps():
    """The parsers of the other subcommands, and a second check of each value, would double the time of a start."""
    found: list[WavLMCLI] = []

    def keep(cli):
        found.append(cli)
        raise _Found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WavLMCLI, "instantiate_classes", keep)
        for subcommand in ("fit", "test"):
            with pytest.raises(_Found):
                command_line([subcommand, *KS, "--model.learning_rate", "1e-3"], run=True)
    for cli, subcommand in zip(found, ("fit", "test"), strict=True):
        assert list(cli._subcommand_parsers) == [subcommand]
        checked = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False, format="yaml"))
        assert yaml.safe_dump(saved_content(cli.parser, cli.config)) == yaml.safe_dump(checked)
        cli._dump_config()
        ours = cli.config_dump
        del cli.config_dump
        super(WavLMCLI, cli)._dump_config()
        assert yaml.safe_dump(ours) == yaml.safe_dump(cli.config_dump)


def test_a_command_that_is_none_is_said():
    with pytest.raises(ArgumentError, match=r"invalid choice: 'fi'.*fit.*validate.*test.*predict"):
        command_line(["fi"], run=True)
