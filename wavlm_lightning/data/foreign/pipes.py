"""Commands of a wav.scp: those that only read a file are read here, others run without a shell and with a time limit."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wavlm_lightning.system.errors import UserError, one_line

LARGEST = 2**31  # bytes that a command may put out: 18 hours at 16 kHz
BLOCK = 1 << 20
SHELL_ONLY = "$`*?~{}#"  # characters that a shell replaces; nothing here does


def parse_commands(text: str, where: str) -> tuple[tuple[str, ...], ...]:
    """The argument lists of `a x | b y |`.

    Raises:
        UserError: it needs a shell (variables, wildcards, redirection, `;`, `&`), or a quote is open.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise UserError(f"{where}: not a command ({error}); correct it") from error
    needs = next((word for word in words if word != "|" and set(word) <= set("();<>|&")), None)
    needs = needs or next((mark for mark in SHELL_ONLY if mark in text), None)
    if needs is not None:
        raise UserError(
            f"{where}: the command has {needs!r}, which needs a shell, and none is used; write its output to files and list those"
        )
    commands: list[tuple[str, ...]] = []
    part: list[str] = []
    for word in words:
        if word == "|":
            commands.append(tuple(part))
            part = []
        else:
            part.append(word)
    if part or not all(commands) or not commands:
        raise UserError(f"{where}: a command ends with `|`, and stands on either side of another; correct it")
    return tuple(commands)


def plain_reading(commands: tuple[tuple[str, ...], ...]) -> tuple[str, int | None] | None:
    """The file, and the channel from 0, of a command that only reads a file; None for any other command."""
    if len(commands) != 1:
        return None
    program, *options = commands[0]
    name, channel = Path(program).name, None
    if not options or options[-1].startswith("-"):
        return None
    *options, file = options
    if name == "cat":
        return None if options else (file, None)
    if name == "flac":
        long = {"--stdout": "c", "--decode": "d", "--silent": "s"}
        letters = "".join(long.get(option, option.removeprefix("-")) for option in options)
        plain = all(option in long or not option.startswith("--") for option in options)
        return (file, None) if plain and {"c", "d"} <= set(letters) <= set("cds") else None
    if name == "sph2pipe":
        kinds = []
        while options:
            option = options.pop(0)
            if option in ("-f", "-c") and options:
                value = options.pop(0)
                kinds.append(value if option == "-f" else "")
                channel = int(value) - 1 if option == "-c" and value in ("1", "2") else channel
                if option == "-c" and value not in ("1", "2"):
                    return None
            elif option != "-p":
                return None
        return (file, channel) if [kind for kind in kinds if kind] in (["wav"], ["rif"]) else None
    return None


@dataclass(frozen=True)
class Piped:
    """The output of commands, each of which reads that of the one before it.

    Attributes:
        commands: argument lists.
        folder: in which they run.
        seconds: that all of them may take.
    """

    commands: tuple[tuple[str, ...], ...]
    folder: Path
    seconds: float

    def content(self) -> bytes:
        """Run the commands.

        Raises:
            BadAudio: one is missing, fails or puts out too much, or they take too long.
        """
        from wavlm_lightning.audio import BadAudio

        running: list[subprocess.Popen[bytes]] = []
        late = threading.Event()

        def end() -> None:
            late.set()
            for process in running:
                process.kill()

        timer = threading.Timer(self.seconds, end)
        with tempfile.TemporaryFile() as said:
            try:
                before: IO[bytes] | int = subprocess.DEVNULL
                for command in self.commands:
                    process = subprocess.Popen(
                        command, stdin=before, stdout=subprocess.PIPE, stderr=said, cwd=self.folder, close_fds=True
                    )
                    if not isinstance(before, int):
                        before.close()  # so that an early end reaches the command before
                    assert process.stdout is not None
                    running.append(process)
                    before = process.stdout
                timer.start()
                content = self._read(before)
                codes = [process.wait() for process in running]
            except OSError as error:
                raise BadAudio(f"{self}: cannot be run ({error.strerror or error})") from error
            finally:
                timer.cancel()
                for process in running:
                    process.kill()
                    process.wait()
            said.seek(0)
            last = one_line(said.read(BLOCK).decode("utf-8", "replace").strip().split("\n")[-1], 120)
        if late.is_set():
            raise BadAudio(f"{self}: takes more than {self.seconds:g} s (--pipe-seconds)")
        if any(codes):
            raise BadAudio(
                f"{self}: ends with status {next(code for code in codes if code)} ({last or 'and says nothing'})"
            )
        return content

    def _read(self, stream: IO[bytes] | int) -> bytes:
        from wavlm_lightning.audio import BadAudio

        assert not isinstance(stream, int)
        parts, size = [], 0
        while block := stream.read(BLOCK):
            parts.append(block)
            size += len(block)
            if size > LARGEST:
                raise BadAudio(f"{self}: puts out more than {LARGEST:,} bytes")
        return b"".join(parts)

    def __str__(self) -> str:
        return f"the command `{' | '.join(shlex.join(command) for command in self.commands)} |`"
