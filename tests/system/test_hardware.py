"""What the CPU says of itself, and what it means when it says nothing."""

import platform

import pytest

from wavlm_lightning.system import hardware


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("model name\t: A Fast One\nflags\t\t: sse2 avx512_bf16 amx_bf16 fma", ["amx_bf16", "avx512_bf16"]),
        ("model name\t: An Old One\nflags\t\t: sse2 avx2", []),
        ("", None),
    ],
)
def test_bf16_instructions(monkeypatch, text, found):
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: text)
    assert hardware.cpu_bf16_instructions() == found


def test_name(monkeypatch):
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: "processor\t: 0\nmodel name\t: A Fast One\n")
    assert hardware.processor_name() == "A Fast One"
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: "")
    assert hardware.processor_name() == (platform.processor() or platform.machine())
