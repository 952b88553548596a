"""The espeak-ng process: the only module that loads the library (GPL-3.0-or-later), never imported by others.

`python -m wavlm_lightning.data.mini.synthesis.synthesiser` reads one JSON job per line from stdin:
`{"text", "voice", "rate", "pitch", "range", "seed"}`. It answers each on stdout with a frame: two little-endian
32-bit lengths, then that many bytes of JSON (`rate`, `phones` [[sample, name]], `words` [[sample, character]], or
`error`) and of 16-bit mono samples. The first frame, sent before any job, holds `version` or `error`.
"""

import ctypes
import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

_SYNCHRONOUS, _PHONE_EVENTS, _DO_NOT_EXIT = 2, 0x0001, 0x8000
_WORD, _PHONE = 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
# At the default volume of 100, about ten of the voices clip inside the synthesiser.
_QUIET = 35


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


def _load(library_path: str, data_path: str) -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(library_path)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _PHONE_EVENTS | _DO_NOT_EXIT)
    if rate <= 0:
        raise RuntimeError(f"espeak-ng cannot read its data in {data_path}")
    return library, rate


def _unload(library: ctypes.CDLL) -> None:
    library.espeak_Terminate()
    # The waveform generator carries state over to the next utterance, which only unloading the library clears.
    import _ctypes

    _ctypes.dlclose(library._handle)


def _speak(job: dict[str, Any], library_path: str, data_path: str) -> tuple[dict[str, Any], bytes]:
    library, rate = _load(library_path, data_path)
    samples: list[bytes] = []
    phones: list[tuple[int, str]] = []
    words: list[tuple[int, int]] = []

    def receive(wave: int | None, count: int, events: Any) -> int:
        if wave and count > 0:
            samples.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _PHONE:
                name = bytes(event.id.string).split(b"\0")[0]
                phones.append((event.sample, name.decode("utf-8", "replace")))
            elif event.type == _WORD:
                words.append((event.sample, max(0, event.text_position - 1)))
            index += 1
        return 0

    try:
        callback = _Callback(receive)
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
        ctypes.CDLL(None).srand(job["seed"])
        if library.espeak_SetVoiceByName(job["voice"].encode()):
            return {"error": f"espeak-ng has no voice {job['voice']}"}, b""
        settings = {_RATE: job["rate"], _PITCH: job["pitch"], _RANGE: job["range"], _VOLUME: _QUIET}
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, int(value), 0)
        text = job["text"].encode() + b"\0"
        synth = library.espeak_Synth
        synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4, ctypes.c_void_p, ctypes.c_void_p]
        synth(text, len(text), 0, 1, 0, 1, None, None)
    finally:
        _unload(library)
    return {"rate": rate, "phones": phones, "words": words}, b"".join(samples)


def _send(stream: BinaryIO, header: dict[str, Any], samples: bytes = b"") -> None:
    encoded = json.dumps(header).encode()
    stream.write(struct.pack("<II", len(encoded), len(samples)) + encoded + samples)
    stream.flush()


def main() -> None:
    """Answer jobs until stdin ends."""
    # Ctrl-C reaches the whole process group, but the parent ends this process by closing its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Redirect stdout to stderr, so that the library's own output cannot land between two frames.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import espeakng_loader

        paths = str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())
        library, _ = _load(*paths)
        library.espeak_Info.restype = ctypes.c_char_p
        version = library.espeak_Info(None).decode().split()[0]
        _unload(library)
    except Exception as error:
        _send(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    _send(replies, {"version": version})
    for line in sys.stdin.buffer:
        try:
            _send(replies, *_speak(json.loads(line), *paths))
        except BrokenPipeError:
            return
        except Exception as error:
            _send(replies, {"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
