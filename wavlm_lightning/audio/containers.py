"""What the header of an audio file promises, against the bytes that are there: wav, aiff, au, w64, caf, ogg, sphere, mp3.

libsndfile believes a header or the length of the file, whichever is shorter, and says nothing. A file that was cut, or whose
header was never finished, then becomes a shorter recording.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# Recorders that cannot seek leave these in place of a length they do not know: 0, -1, and sox the largest that it can write.
UNKNOWN_FROM = 0x7FFF0000
OPEN_64 = (0, 2**63 - 1, 2**64 - 1)  # the same in formats whose lengths have 64 bits
LEFT_OVER = 3200  # bytes of samples behind the counted ones that are worth a refusal: 0.1 s at 16 kHz
FLAC_TAIL = 1 << 17  # bytes at the end of a FLAC that hold at least one frame
GUID_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"

# MPEG audio, layer III: samples in a second by the bits of a frame's header, divided by 1, 2 or 4 in MPEG 1, 2 and 2.5.
MPEG_RATES = (44_100, 48_000, 32_000)
MPEG_KILOBITS = (  # by the upper four bits of the third byte of a header: MPEG 1; MPEG 2 and 2.5
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
LARGEST_COMPRESSED = 1 << 31  # bytes of an mp3 or Ogg file, which is read whole: 37 hours at 128 kbit/s
LOST = 0.1  # seconds of an mp3 that may lie between its frames
FLAC_RATES = {
    1: 88_200, 2: 176_400, 3: 192_000, 4: 8_000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000, 9: 44_100, 10: 48_000, 11: 96_000
}  # fmt: skip
FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}  # of a sample, by those of a frame's header; 0: as the file says
FLAC_HEADER_SUM, FLAC_FRAME_SUM = (8, 0x07), (16, 0x8005)  # bits and polynomial
DECODER_DELAY = 529  # samples that mpg123 drops from the start of a file with a Xing header


def fault(path: Path) -> str | None:
    """What is wrong with the length of an audio file; None if nothing is, or if its format states no length.

    Reads headers alone, but of FLAC also the last frame, and all pages of Ogg and all frame headers of mp3, whose length
    stands nowhere else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if size > LARGEST_COMPRESSED and (head[:4] == b"OggS" or _is_mpeg(head[:4]) or _named_mpeg(path, head)):
            return f"{size / 2**30:.1f} GiB of compressed audio; cut it into files of at most 2 GiB"
        if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
            return _chunks(file, size, 12, ">" if head[:4] == b"RIFX" else "<", b"data")
        if head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _chunks(file, size, 12, "<", b"data")
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _chunks(file, size, 12, ">", b"SSND")
        if head[:4] in (b".snd", b"dns."):
            begin, length = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
            return _ends_at(begin, length, size) or _left_over(file, size, begin, length, chunks=False)
        if head[:4] == b"riff" and size > 40:
            return _w64(file, size)
        if head[:4] == b"caff":
            return _caf(file, size)
        if head[:4] == b"OggS":
            return _ogg(file, size)
        if head.startswith(b"NIST_1A"):
            return _sphere(file, size)
        if head[:4] == b"fLaC":
            promised, there, rate = _flac_samples(file, size)
            file.seek(18)
            stated = int.from_bytes(file.read(3), "big") >> 4
            if rate is not None and stated and stated != rate:
                return f"its header says {stated} Hz, but its frames {rate} Hz; it was damaged: copy it again"
            if there is not None and 0 < promised < there:
                return f"its header counts {promised} samples, but it holds {there}; write its header anew"
        if (mpeg := _first_mpeg_frame(file, _named_mpeg(path, head))) is not None:
            lost = _lost_mpeg(file, mpeg[0])
            return lost if mpeg[2] is None else _ends_at(mpeg[0], mpeg[2], size) or lost
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
        if name == b"fmt " and order == "<" and length >= 16:
            coding, channels, _, _, block, bits = struct.unpack("<HHIIHH", file.read(16))
            if coding in (1, 3, 0xFFFE) and block != channels * -(-bits // 8):
                return (
                    f"its header contradicts itself: {channels} channels of {bits} bits in {block} bytes; copy it again"
                )
        if name == wanted:
            if length == 0xFFFFFFFF and large is not None:
                length = 0 if large in OPEN_64 else large
                if at + length > size:
                    return f"truncated: {size - at} of {length} bytes of samples are there"
                return _left_over(file, size, at, length)
            return _ends_at(at, length, size) or _left_over(file, size, at, length)
        at += length + (length & 1)  # chunks are padded to an even length
    return None


def _left_over(
    file: BinaryIO, size: int, begin: int, length: int, chunks: bool = True, padded: bool = True
) -> str | None:
    """Refuse samples behind the counted ones, as a recorder that was cut off leaves them.

    Tags may follow, and further chunks (their names are letters) in formats that have them.
    """
    end = begin + length + (length & 1 if padded else 0)
    if length >= UNKNOWN_FROM or length == 0 or size - end < LEFT_OVER:
        return None
    file.seek(end)
    following = file.read(LEFT_OVER)
    printable = chunks and all(32 <= byte < 127 for byte in following[:4])
    if printable or following[:3] in (b"ID3", b"TAG") or not any(following):
        return None
    return f"its header counts {length} bytes of samples, but {size - end} more follow; write its header anew"


def _w64_samples(file: BinaryIO, size: int) -> tuple[int, int | None] | None:
    """Where the samples of a w64 begin, and their bytes as the header counts them: None if it leaves that open."""
    at = 40
    while at + 24 <= size:
        file.seek(at)
        guid, length = file.read(16), struct.unpack("<Q", file.read(8))[0]
        if guid == GUID_DATA:
            return at + 24, None if length <= 24 or length in OPEN_64 else length - 24
        if length < 24:
            return None
        at += (length + 7) // 8 * 8
    return None


def _w64(file: BinaryIO, size: int) -> str | None:
    if (found := _w64_samples(file, size)) is None or (length := found[1]) is None:
        return None
    begin = found[0]
    if begin + length > size:
        return f"truncated: its header promises {length} bytes of samples, and {size - begin} are there"
    file.seek(begin + (length + 7) // 8 * 8)
    chunk = file.read(16)
    if chunk[4:] == GUID_DATA[4:] or chunk[:4] == b"list":
        return None
    return _left_over(file, size, begin, length, chunks=False)


def _caf(file: BinaryIO, size: int) -> str | None:
    at = 8
    while at + 12 <= size:
        file.seek(at)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"data":
            if at + 12 + length > size:
                return f"truncated: its header promises {length} bytes of samples, and {size - at - 12} are there"
            return _left_over(file, size, at + 12, length, padded=False) if length > 0 else None
        if length < 0:
            return None
        at += 12 + length
    return None


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Pages of an Ogg file have numbers and check sums, and the last one says so (RFC 3533, section 6).

    A decoder leaves damaged pages out without a word.
    """
    file.seek(0)
    data = file.read()
    at, last = 0, False
    numbers: dict[bytes, int] = {}
    while data[at : at + 4] == b"OggS":
        page = data[at : at + 27]
        table = data[at + 27 : at + 27 + (page[26] if len(page) == 27 else 0)]
        end = at + 27 + len(table) + sum(table)
        if len(page) < 27 or len(table) < page[26] or end > len(data):
            return "truncated: it stops before the page that ends the stream"
        number, expected = struct.unpack("<II", page[18:26])
        if _ogg_sum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != expected:
            return f"damaged: the check sum of its page {number} is wrong; copy it again"
        if number != numbers.get(page[14:18], number - 1) + 1:
            return f"damaged: page {number} follows page {numbers[page[14:18]]}; copy it again"
        numbers[page[14:18]] = number
        at, last = end, bool(page[5] & 4)
    if data.find(b"OggS", at) >= 0:
        return f"damaged: no page begins at byte {at}; copy it again"
    return None if last else "truncated: it stops before the page that ends the stream"


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_sum(page: bytes) -> int:
    """CRC-32 with the polynomial 0x04C11DB7, first bit first, from 0: zlib's of the reversed bits."""
    found = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{found:032b}"[::-1], 2)


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
        length = int(fields["sample_count"]) * each
        return _ends_at(begin, length, size) or _left_over(file, size, begin, length, chunks=False)
    except (ValueError, KeyError, IndexError):
        return "its header does not say how many samples follow; copy it again"


class Readable(NamedTuple):
    """What to give to libsndfile, and what it must make of it."""

    source: bytes | BinaryIO
    skipped: int = 0  # samples to drop from the start of what it decodes
    least: int = 0  # samples that follow at least, where the file itself does not count them


class _Patched(io.FileIO):
    """A file in which a few bytes read as others."""

    def __init__(self, path: Path, place: int, value: bytes) -> None:
        super().__init__(path)
        self.place, self.value = place, value

    def readinto(self, buffer: Any) -> int:
        begin = self.tell()
        found = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for at, byte in enumerate(self.value, self.place - begin):
            if 0 <= at < found:
                view[at] = byte
        return found


def readable(path: Path) -> Readable:
    """What to give to libsndfile for a file in which `fault` finds nothing.

    libsndfile estimates the length of an mp3 without a table of contents from its first frame and the size of the file,
    and stops there, which is wrong for a variable bit rate. Such a file gets a header in memory whose length is beyond its
    end. The same holds for mp3 files put one behind the other, of which the first one's header counts only itself.
    """
    with path.open("rb") as file:
        if (patch := _length_to_write(file, path.stat().st_size)) is not None:
            place, value = patch
            return Readable(_Patched(path, place, value))
        file.seek(0)
        if (found := _first_mpeg_frame(file, _named_mpeg(path, file.read(4)))) is None:
            return Readable(os.fsencode(path))
        at, header, counted = found
        begin = _behind_tags(file)
        file.seek(0)
        data = file.read()
        frames = _mpeg_frames(data, at)
        if counted is not None and _tells_the_truth(data, at, frames):
            return Readable(os.fsencode(path))
    version = header[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate = _mpeg_rate(header)
    # A frame of 128 kbit/s (80 in MPEG 2) has room for the header; the same frame without it decodes to silence.
    size = (144 * 128_000 if version == 3 else 72 * 80_000) // rate
    plain = bytes([header[0], header[1] | 1, 9 << 4 | header[2] & 0x0C, header[3]])
    frame = plain + bytes(_side_information(plain))
    endless = frame + b"Xing" + struct.pack(">II", 1, 2**31 - 1)
    made = data[:begin] + endless.ljust(size, b"\0") + frame.ljust(size, b"\0") + data[at:]
    samples = 1152 if version == 3 else 576
    # Decoded are the silent frame and, where there is one, the frame that holds the old table of contents.
    tables = 0 if counted is None else 1
    # mpg123 gives up behind a gap of more than 1024 bytes, and libsndfile takes that for the end of the file.
    missing = _missing(data, begin, at, frames)
    least = samples * (frames.number - tables) - round(max(LOST - missing, 0.0) * _mpeg_rate(header))
    return Readable(io.BytesIO(made), samples * (1 + tables) - DECODER_DELAY, least)


def _length_to_write(file: BinaryIO, size: int) -> tuple[int, bytes] | None:
    """Place and bytes of a length that the header leaves open and libsndfile takes for another one."""
    file.seek(0)
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        order = ">" if head[:4] == b"RIFX" else "<"
        at, large = 12, False
        while at + 8 <= size:
            file.seek(at)
            name, length = struct.unpack(f"{order}4sI", file.read(8))
            if name == b"ds64" and at == 12:  # the length of the samples is its second number
                large = struct.unpack("<Q", head[28:36])[0] in OPEN_64
            if name == b"data" and length == 0xFFFFFFFF and large:
                return 28, struct.pack("<Q", size - at - 8)
            if name == b"data":
                return (at + 4, struct.pack(f"{order}I", min(size - at - 8, 2**32 - 2))) if length == 0 else None
            at += 8 + length + (length & 1)
    if head[:4] in (b".snd", b"dns."):
        order = ">" if head[:4] == b".snd" else "<"
        begin, length = struct.unpack(f"{order}II", head[4:12])
        if length == 0 or UNKNOWN_FROM <= length < 2**32 - 1:
            return 8, struct.pack(f"{order}I", max(min(size - begin, 2**32 - 1), 0))
    if head[:4] == b"riff" and (found := _w64_samples(file, size)) is not None:
        return (found[0] - 8, struct.pack("<Q", size - found[0] + 24)) if found[1] is None else None
    if head[:4] == b"caff":
        at = 8
        while at + 12 <= size:
            file.seek(at)
            name, length = struct.unpack(">4sq", file.read(12))
            if name == b"data":
                return (at + 4, struct.pack(">q", size - at - 12)) if length == -1 else None
            at += 12 + max(length, 0)
    if head[:4] == b"fLaC":
        promised, there, _ = _flac_samples(file, size)
        if promised == 0 and there is not None:
            return 21, bytes([head[21] & 0xF0 | there >> 32]) + struct.pack(">I", there & 0xFFFFFFFF)
    return None


def _flac_samples(file: BinaryIO, size: int) -> tuple[int, int | None, int | None]:
    """The samples that STREAMINFO promises (0: unknown), those up to the end of the last frame (None: not found), its rate.

    Source: RFC 9639, section 9.1; each frame has its own number and size, under a check sum. Eight bits of it also stand in front
    of samples now and then, so that a frame counts if the sum over all of it is right too; only in a file that ends otherwise,
    one whose channels, bits and rate are those of STREAMINFO.
    """
    file.seek(0)
    head = file.read(26).ljust(26, b"\0")
    smallest, largest = struct.unpack(">HH", head[8:12])
    promised = (head[21] & 0x0F) << 32 | struct.unpack(">I", head[22:26])[0]
    file.seek(max(size - FLAC_TAIL, 0))
    tail = file.read()
    place, likely = len(tail), None
    stated = int.from_bytes(head[18:21], "big") >> 4
    channels, bits = (head[20] >> 1 & 7) + 1, ((head[20] & 1) << 4 | head[21] >> 4) + 1
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
        if block and end < len(frame) and _check_sum(frame[: end + 1], *FLAC_HEADER_SUM) == 0:
            rate = FLAC_RATES.get(frame[2] & 0x0F)
            there = promised, (number if frame[1] & 1 else number * max(smallest, largest)) + block, rate
            if _check_sum(tail[place:], *FLAC_FRAME_SUM) == 0:
                return there
            as_stated = frame[3] >> 4 in (channels - 1, *((8, 9, 10) if channels == 2 else ()))
            as_stated &= FLAC_BITS.get(frame[3] >> 1 & 7, bits) == bits and rate in (None, stated) and not frame[3] & 1
            likely = there if likely is None and as_stated else likely
    return likely or (promised, None, None)


def _check_sum(data: bytes, bits: int, polynomial: int) -> int:
    """Cyclic redundancy check of 8 or 16 bits that starts at 0; 0 for data that end with their own."""
    found, table = 0, _steps(bits, polynomial)
    for byte in data:
        found = (found << 8 ^ table[found >> bits - 8 ^ byte]) & (1 << bits) - 1
    return found


@functools.cache
def _steps(bits: int, polynomial: int) -> list[int]:
    """What each first byte adds to a check sum."""
    table, highest = [], 1 << bits - 1
    for byte in range(256):
        found = byte << bits - 8
        for _ in range(8):
            found = (found << 1 ^ polynomial if found & highest else found << 1) & 2 * highest - 1
        table.append(found)
    return table


class MpegFrames(NamedTuple):
    """The frames of an mp3."""

    number: int
    seconds: float
    bytes: int
    lost: int  # bytes between them, which a decoder skips without a word
    other: float  # seconds under another rate, version or number of channels than those of the first one


def _mpeg_frames(data: bytes, at: int) -> MpegFrames:
    """Follow the frames from the first one at `at` to the end."""
    count = whole = lost = 0
    seconds = other = 0.0
    kind = _mpeg_kind(data[at : at + 4])
    while at + 4 <= len(data):
        header = data[at : at + 4]
        if length := _mpeg_length(header):
            count, whole, at = count + 1, whole + length, at + length
            lasts = (1152 if header[1] >> 3 & 3 == 3 else 576) / _mpeg_rate(header)
            seconds += lasts
            other += lasts if _mpeg_kind(header) != kind else 0
            continue
        if header[:3] in (b"TAG", b"APE", b"LYR"):  # at the end
            break
        if (following := _next_mpeg_frame(data, at + 1)) < 0:
            lost += max(len(data.rstrip(b"\0")) - at, 0)
            break
        lost += 0 if header[:3] == b"ID3" else following - at  # of a file that was put behind this one
        at = following
    return MpegFrames(count, seconds, whole, lost, other)


def _missing(data: bytes, begin: int, at: int, frames: MpegFrames) -> float:
    """Seconds that the bytes between the frames would last, and those from `begin` to the first frame at `at`."""
    lost = frames.lost + len(data[begin:at].lstrip(b"\0"))
    return lost / max(frames.bytes, 1) * frames.seconds


def _mpeg_kind(header: bytes) -> tuple[int, int, bool]:
    """What a decoder takes from the first frame and believes of all: version, sampling rate in Hz, and whether mono."""
    return header[1] >> 3 & 3, _mpeg_rate(header), header[3] >> 6 == 3


def _lost_mpeg(file: BinaryIO, at: int) -> str | None:
    begin = _behind_tags(file)
    file.seek(0)
    data = file.read()
    found = _mpeg_frames(data, at)
    if (missing := _missing(data, begin, at, found)) > LOST:
        return f"damaged: about {missing:.2f} s of it are no frames of an mp3; copy it again"
    if found.other > LOST:
        _, rate, mono = _mpeg_kind(data[at : at + 4])
        return (
            f"{found.other:.2f} of its {found.seconds:.2f} s have another rate or number of channels than its first "
            f"frame ({rate} Hz, {'mono' if mono else 'stereo'}); copy it again, or convert each part for itself"
        )
    return None


def _tells_the_truth(data: bytes, at: int, frames: MpegFrames) -> bool:
    """Whether the table of contents in the first frame counts the frames that are there, and has its check sum.

    libsndfile believes its number of frames, and the samples that it wants cut from both ends.
    Source: the LAME tag's description, http://gabriel.mp3-tech.org/mp3infotag.html.
    """
    table = at + 4 + _side_information(data[at : at + 4])
    if int.from_bytes(data[table + 8 : table + 12], "big") != frames.number - 1 or frames.lost:
        return False
    if data[table + 7] & 15 != 15 or not data[table + 120 : table + 124].isalpha():
        return not any(data[table + 141 : table + 144])  # no tag of the encoder, so nothing to cut
    end = table + 154
    found = 0
    for byte in data[at:end]:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ 0xA001 if found & 1 else found >> 1
    return data[end : end + 2] in (found.to_bytes(2, "big"), b"\0\0")


def _mpeg_rate(header: bytes) -> int:
    return MPEG_RATES[header[2] >> 2 & 3] // {3: 1, 2: 2}.get(header[1] >> 3 & 3, 4)


def _mpeg_length(header: bytes) -> int:
    """Bytes of a frame of MPEG audio, layer III; 0 if these four bytes are no header or leave the bit rate open."""
    if not _is_mpeg(header) or header[1] >> 3 & 3 == 1:
        return 0
    first = header[1] >> 3 & 3 == 3
    kilobits = MPEG_KILOBITS[0 if first else 1][header[2] >> 4]
    return (144 if first else 72) * kilobits * 1000 // _mpeg_rate(header) + (header[2] >> 1 & 1)


def _is_mpeg(header: bytes) -> bool:
    """Whether four bytes can be the header of a frame of MPEG audio, layer III."""
    return len(header) == 4 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2 and header[2] >> 2 & 3 != 3


def _side_information(header: bytes) -> int:
    """Bytes between the header of a frame and its data."""
    mono = header[3] >> 6 == 3
    checksum = 0 if header[1] & 1 else 2
    return checksum + ((17 if mono else 32) if header[1] >> 3 & 3 == 3 else (9 if mono else 17))


def _named_mpeg(path: Path, head: bytes) -> bool:
    return path.suffix.lower() == ".mp3" and not head.startswith((b"RIFF", b"fLaC", b"OggS", b"FORM", b"caff", b".snd"))


def _next_mpeg_frame(data: bytes, at: int) -> int:
    """Place of the next header from `at` on that another follows, because four bytes that could be one are frequent; or -1."""
    while (at := data.find(b"\xff", at)) >= 0:
        length = _mpeg_length(data[at : at + 4])
        if length and _mpeg_length(data[at + length : at + length + 4]):
            return at
        at += 1
    return -1


def _behind_tags(file: BinaryIO) -> int:
    """The first byte behind the ID3 tags at the beginning of a file."""
    at = 0
    file.seek(0)
    while (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        at += 10 + sum((byte & 127) << (7 * (3 - place)) for place, byte in enumerate(tag[6:]))
        file.seek(at)
    return at


def _first_mpeg_frame(file: BinaryIO, searched: bool = False) -> tuple[int, bytes, int | None] | None:
    """Place and header of the first frame of an mp3, and the bytes that its table of contents counts, if it has one.

    With `searched` the file may begin with something else, as a decoder takes it.
    """
    at = _behind_tags(file)
    file.seek(at)
    if not _is_mpeg(header := file.read(4)) or (searched and not _mpeg_length(header)):
        if not searched:
            return None
        file.seek(0)
        data = file.read()
        if (at := _next_mpeg_frame(data, at if at < len(data) else 0)) < 0:
            return None
        header = data[at : at + 4]
    file.seek(at + 4 + _side_information(header))
    name, flags, _, counted = struct.unpack(">4s3I", file.read(16).ljust(16, b"\0"))
    return at, header, counted if name in (b"Xing", b"Info") and flags & 3 == 3 else None
