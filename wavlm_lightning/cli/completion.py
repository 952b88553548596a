"""`wavlm --completion bash|zsh|tcsh`: a script that completes verbs, options, class names and files, made by shtab.

The script holds all names: asking Python while the user types (argcomplete) would take seconds for each key.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from wavlm_lightning.system.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")
USES = 'bash: eval "$(wavlm --completion bash)" in ~/.bashrc; zsh: wavlm --completion zsh > DIR_IN_FPATH/_wavlm'


def main(argv: list[str]) -> int:
    """Print the script; a `UserError` if the shell is not supported or shtab is not installed."""
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise UserError(f"--completion needs one of {', '.join(SHELLS)} ({USES})")
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise UserError("--completion needs shtab; `pip install shtab`") from error
    parser = whole_parser()
    for action in _actions(parser):
        if action.type is Path and not action.choices and not hasattr(action, "complete"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.choices, dict) and not isinstance(action, argparse._SubParsersAction):
            action.choices = list(action.choices)  # shtab takes a dict of choices for subcommands
    print(shtab.complete(parser, argv[0]))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """One parser of all verbs, for shtab to read; it is not used to parse."""
    from wavlm_lightning.cli import PASSES_VERB, VERBS, module_of

    parser = argparse.ArgumentParser(prog="wavlm")
    verbs = parser.add_subparsers(metavar="VERB")
    training = training_parser()
    for verb, text in VERBS.items():
        own = training if verb in PASSES_VERB - {"predict"} else _parser_of(verb)
        for word, also in getattr(module_of(verb), "WORDS", {}).items():
            _take_in(own, word, also())
        verbs.add_parser(verb, help=text, parents=[own], add_help=False)
    return parser


def _take_in(parser: argparse.ArgumentParser, word: str, other: argparse.ArgumentParser) -> None:
    """Add to a verb's parser, whose arguments are files, a word with options of its own, such as `wavlm lm tune`."""
    first = next(action for action in parser._actions if not action.option_strings)
    either = f"_wavlm_files_or_{word}"
    first.complete = {  # type: ignore[attr-defined]
        "bash": either,
        "zsh": f"{{_alternative 'words:word:({word})' 'files:file:_files'}}",
        "tcsh": "f",
        "preamble": {"bash": f"{either}() {{ compgen -W {word} -- $1; _shtab_compgen_files $1; }}"},
    }
    known = {name for action in parser._actions for name in action.option_strings}
    for action in other._actions:
        if action.option_strings and not known & set(action.option_strings):
            parser._add_action(action)


class _Parser(Exception):
    """Carries a parser out of its verb."""


def _parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser that a verb builds: taken where `main` calls `parse_args`, since some depend on the arguments."""
    from wavlm_lightning.cli import module_of

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _Parser(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            module_of(verb).main([verb] if verb == "predict" else [])
        except _Parser as found:
            return found.args[0]
    raise RuntimeError(f"wavlm {verb} parses nothing")


def training_parser() -> argparse.ArgumentParser:
    """A flat parser of the options of `wavlm fit`, with those of every class of ours: LightningCLI's has no flat list."""
    import lightning.pytorch as pl

    import wavlm_lightning.pretraining
    import wavlm_lightning.tasks  # noqa: F401 - `known_classes` lists imported classes
    from wavlm_lightning.system.name_hints import OPTIONS, known_classes, parameters
    from wavlm_lightning.upstreams import Upstream

    parser = argparse.ArgumentParser()
    parser.add_argument("-c", type=Path)
    for name in OPTIONS:
        if name not in ("help", "trainer", "model", "data", "verbose", "return_predictions"):
            parser.add_argument(f"--{name}", type=Path if name in ("config", "also") else str)
    holders: dict[str, list[type]] = {
        "model": [known for known in known_classes() if issubclass(known, pl.LightningModule)],
        "model.upstream": [known for known in known_classes() if issubclass(known, Upstream)],
        "data": [known for known in known_classes() if issubclass(known, pl.LightningDataModule)],
    }
    for key, classes in holders.items():
        parser.add_argument(f"--{key}", choices=sorted({known.__name__ for known in classes}))
    for key, classes in {"trainer": [pl.Trainer], **holders}.items():
        names = {name for known in classes for name in parameters(known)} - {"self", "args", "kwargs", "upstream"}
        for name in sorted(names):
            parser.add_argument(f"--{key}.{name}")
    return parser


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions of a parser and of its subparsers."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [below for child in action.choices.values() for below in _actions(child)]
    return found
