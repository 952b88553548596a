"""What the header of an audio file promises, against the bytes that are there: wav, aiff, au, w64, caf, ogg, sphere, mp3.

libsndfile believes a header or the length of the file, whichever is shorter, and says nothing. A file that was cut, or whose
header was never finished, then becomes a shorter recording.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

# Recorders that cannot seek leave these in place of a length they do not know: 0, -1, and sox the largest that it can write.
UNKNOWN_FROM = 0x7FFF0000
LEFT_OVER = 3200  # bytes of samples behind the counted ones that are worth a refusal: 0.1 s at 16 kHz
OGG_PAGE = 65_307  # the largest page
FLAC_TAIL = 1 << 17  # bytes at the end of a FLAC that hold at least one frame
GUID_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"

# MPEG audio, layer III: samples in a second by the bits of a frame's header, divided by 1, 2 or 4 in MPEG 1, 2 and 2.5.
MPEG_RATES = (44_100, 48_000, 32_000)
DECODER_DELAY = 529  # samples that mpg123 drops from the start of a file with a Xing header


def fault(path: Path) -> str | None:
    """What is wrong with the length of an audio file; None if nothing is, or if its format states no length.

    Reads the headers and, for Ogg, the end of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
            return _chunks(file, size, 12, ">" if head[:4] == b"RIFX" else "<", b"data")
        if head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _chunks(file, size, 12, "<", b"data")
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _chunks(file, size, 12, ">", b"SSND")
        if head[:4] in (b".snd", b"dns."):
            begin, length = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
            return _ends_at(begin, length, size)
        if head[:4] == b"riff" and size > 40:
            return _w64(file, size)
        if head[:4] == b"caff":
            return _caf(file, size)
        if head[:4] == b"OggS":
            return _ogg(file, size)
        if head.startswith(b"NIST_1A"):
            return _sphere(file, size)
        if head[:4] == b"fLaC":
            promised, there = _flac_samples(file, size)
            if there is not None and 0 < promised < there:
                return f"its header counts {promised} samples, but it holds {there}; write its header anew"
        if (mpeg := _first_mpeg_frame(file)) is not None and mpeg[2] is not None:
            return _ends_at(mpeg[0], mpeg[2], size)
    return None


def _ends_at(begin: int, length: int, size: int) -> str | None:
    if 0 < length < UNKNOWN_FROM and begin + length > size:
        return f"truncated: its header promises {length} bytes of samples, and {max(size - begin, 0)} are there"
    return None


def _chunks(file: BinaryIO, size: int, at: int, order: str, wanted: bytes) -> str | None:
    """Follow the chunks of RIFF or AIFF to the samples."""
    large: int | None = None  # the length of the samples in RF64, whose own field is too small
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        at += 8
        if name == b"ds64":
            large = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        if name == wanted:
            if length == 0xFFFFFFFF and large is not None:
                length = 0 if large >= 2**63 else large
                return f"truncated: {size - at} of {length} bytes of samples are there" if at + length > size else None
            return _ends_at(at, length, size) or _left_over(file, size, at, length)
        at += length + (length & 1)  # chunks are padded to an even length
    return None


def _left_over(file: BinaryIO, size: int, begin: int, length: int) -> str | None:
    """Samples behind the counted ones, as a recorder that was cut off leaves them; tags and further chunks are none."""
    end = begin + length + (length & 1)
    if length >= UNKNOWN_FROM or length == 0 or size - end < LEFT_OVER:
        return None
    file.seek(end)
    following = file.read(LEFT_OVER)
    printable = all(32 <= byte < 127 for byte in following[:4])
    if printable or following[:3] in (b"ID3", b"TAG") or not any(following):
        return None
    return f"its header counts {length} bytes of samples, but {size - end} more follow; write its header anew"


def _w64(file: BinaryIO, size: int) -> str | None:
    at = 40
    while at + 24 <= size:
        file.seek(at)
        guid, length = file.read(16), struct.unpack("<Q", file.read(8))[0]
        if guid == GUID_DATA:
            return _ends_at(at + 24, length - 24, size) if 24 < length < 2**62 else None
        if length < 24:
            return None
        at += (length + 7) // 8 * 8
    return None


def _caf(file: BinaryIO, size: int) -> str | None:
    at = 8
    while at + 12 <= size:
        file.seek(at)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"data":
            return _ends_at(at + 12, length, size) if length > 0 else None
        if length < 0:
            return None
        at += 12 + length
    return None


def _ogg(file: BinaryIO, size: int) -> str | None:
    """An Ogg stream ends with a page that is whole and says so (RFC 3533, section 6, header type 4)."""
    file.seek(max(size - 2 * OGG_PAGE, 0))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return "truncated: its last page is missing"
    segments = tail[page + 26] if page + 26 < len(tail) else 0
    table = tail[page + 27 : page + 27 + segments]
    whole = len(table) == segments and page + 27 + segments + sum(table) <= len(tail) and page + 27 <= len(tail)
    return None if whole and tail[page + 5] & 4 else "truncated: it stops before the page that ends the stream"


def _sphere(file: BinaryIO, size: int) -> str | None:
    file.seek(8)
    try:
        begin = int(file.read(8))
        file.seek(0)
        lines = [line.split() for line in file.read(min(begin, 65_536)).decode("latin-1").splitlines()]
        fields = {line[0]: line[2] for line in lines if len(line) == 3}
        if "shorten" in fields.get("sample_coding", "") or "shortpack" in fields.get("sample_coding", ""):
            return None
        each = int(fields["sample_n_bytes"]) * int(fields.get("channel_count", 1))
        return _ends_at(begin, int(fields["sample_count"]) * each, size)
    except (ValueError, KeyError, IndexError):
        return None  # libsndfile says what is wrong with the header


def readable(path: Path) -> tuple[bytes | BinaryIO, int]:
    """What to give to libsndfile, and the samples to drop from the start of what it decodes.

    libsndfile estimates the length of an mp3 without a table of contents from its first frame and the size of the file,
    and stops there, which is wrong for a variable bit rate. Such a file gets a header in memory whose length is beyond its
    end. The same holds for mp3 files put one behind the other, of which the first one's header counts only itself.
    """
    with path.open("rb") as file:
        if (patch := _length_to_write(file, path.stat().st_size)) is not None:
            place, value = patch
            file.seek(0)
            data = file.read()
            return io.BytesIO(data[:place] + value + data[place + len(value) :]), 0
        if (found := _first_mpeg_frame(file)) is None:
            return os.fsencode(path), 0
        at, header, counted = found
        if counted is not None:
            file.seek(at + counted)
            behind = file.read(4)
            if not _is_mpeg(behind) or behind[1] & 0xFE != header[1] & 0xFE:
                return os.fsencode(path), 0
        file.seek(0)
        data = file.read()
    version = header[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate = MPEG_RATES[header[2] >> 2 & 3] // {3: 1, 2: 2}.get(version, 4)
    # A frame of 128 kbit/s (80 in MPEG 2) has room for the header; the same frame without it decodes to silence.
    size = (144 * 128_000 if version == 3 else 72 * 80_000) // rate
    plain = bytes([header[0], header[1] | 1, 9 << 4 | header[2] & 0x0C, header[3]])
    frame = plain + bytes(_side_information(plain))
    endless = frame + b"Xing" + struct.pack(">II", 1, 2**31 - 1)
    made = data[:at] + endless.ljust(size, b"\0") + frame.ljust(size, b"\0") + data[at:]
    samples = 1152 if version == 3 else 576
    # Decoded are the silent frame and, where there is one, the frame that holds the old table of contents.
    return io.BytesIO(made), samples * (1 if counted is None else 2) - DECODER_DELAY


def _length_to_write(file: BinaryIO, size: int) -> tuple[int, bytes] | None:
    """Place and bytes of a length that the header leaves open and libsndfile would take for none, in wav, caf and flac."""
    file.seek(0)
    head = file.read(26)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        at = 12
        while at + 8 <= size:
            file.seek(at)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"data":
                return (at + 4, struct.pack("<I", min(size - at - 8, 2**32 - 2))) if length == 0 else None
            at += 8 + length + (length & 1)
    if head[:4] == b"caff":
        at = 8
        while at + 12 <= size:
            file.seek(at)
            name, length = struct.unpack(">4sq", file.read(12))
            if name == b"data":
                return (at + 4, struct.pack(">q", size - at - 12)) if length == -1 else None
            at += 12 + max(length, 0)
    if head[:4] == b"fLaC":
        promised, there = _flac_samples(file, size)
        if promised == 0 and there is not None:
            return 21, bytes([head[21] & 0xF0 | there >> 32]) + struct.pack(">I", there & 0xFFFFFFFF)
    return None


def _flac_samples(file: BinaryIO, size: int) -> tuple[int, int | None]:
    """The samples that STREAMINFO promises (0: unknown), and those up to the end of the last frame (None: not found).

    Source: RFC 9639, section 9.1; each frame has its own number and size, under a check sum.
    """
    file.seek(0)
    head = file.read(26).ljust(26, b"\0")
    smallest, largest = struct.unpack(">HH", head[8:12])
    promised = (head[21] & 0x0F) << 32 | struct.unpack(">I", head[22:26])[0]
    file.seek(max(size - FLAC_TAIL, 0))
    tail = file.read()
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        frame = tail[place : place + 16]
        if len(frame) < 6 or frame[1] & 0xFE != 0xF8:
            continue
        ones = 8 - (frame[4] ^ 0xFF).bit_length()  # leading ones of the number, coded as in UTF-8
        end = 4 + max(ones, 1)
        number = frame[4] & (0x7F >> ones if ones else 0x7F)
        for byte in frame[5:end]:
            number = number << 6 | byte & 0x3F
        code = frame[2] >> 4
        block = (0, 192)[code] if code < 2 else 576 << code - 2 if code < 6 else 256 << max(code - 8, 0)
        if code in (6, 7):
            block = int.from_bytes(frame[end : end + code - 5], "big") + 1
            end += code - 5
        end += {12: 1, 13: 2, 14: 2}.get(frame[2] & 0x0F, 0)
        if block and end < len(frame) and _crc8(frame[:end]) == frame[end]:
            return promised, (number if frame[1] & 1 else number * max(smallest, largest)) + block
    return promised, None


def _crc8(data: bytes) -> int:
    found = 0
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found << 1 ^ 0x07 if found & 0x80 else found << 1) & 0xFF
    return found


def _is_mpeg(header: bytes) -> bool:
    """Whether four bytes can be the header of a frame of MPEG audio, layer III."""
    return len(header) == 4 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2 and header[2] >> 2 & 3 != 3


def _side_information(header: bytes) -> int:
    """Bytes between the header of a frame and its data."""
    mono = header[3] >> 6 == 3
    checksum = 0 if header[1] & 1 else 2
    return checksum + ((17 if mono else 32) if header[1] >> 3 & 3 == 3 else (9 if mono else 17))


def _first_mpeg_frame(file: BinaryIO) -> tuple[int, bytes, int | None] | None:
    """Place and header of the first frame of an mp3, and the bytes that its table of contents counts, if it has one."""
    at = 0
    file.seek(0)
    while (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        at += 10 + sum((byte & 127) << (7 * (3 - place)) for place, byte in enumerate(tag[6:]))
        file.seek(at)
    if not _is_mpeg(header := tag[:4]):
        return None
    file.seek(at + 4 + _side_information(header))
    name, flags, _, counted = struct.unpack(">4s3I", file.read(16).ljust(16, b"\0"))
    return at, header, counted if name in (b"Xing", b"Info") and flags & 3 == 3 else None
