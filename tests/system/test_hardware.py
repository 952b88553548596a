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


def test_processes_are_capped_at_the_cores_and_it_says_so_once(monkeypatch, capsys):
    hardware._note_capped.cache_clear()
    monkeypatch.setattr(hardware, "usable_cores", lambda: 3)
    assert [hardware.capped(n, "data.num_workers") for n in (0, 2, 3, 8, 8)] == [0, 2, 3, 3, 3]
    assert capsys.readouterr().err == "note: data.num_workers is 8, but this process may use 3 cores: 3 are started\n"
