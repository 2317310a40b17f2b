"""Is a sound file whole? Decoders play what is there and say nothing; this module reads the containers and counts.

Sources of the layouts: RFC 3533 (Ogg pages), the RIFF/WAVE specification, ISO 11172-3 (MPEG audio frame headers)
and the Xing/Info header as LAME writes it.
"""

import struct
from dataclasses import dataclass

_STREAMED = 0x7FFF_0000  # size fields from here up are placeholders of programs that wrote into a pipe
_BITRATES = {  # kbit/s by (MPEG version 1?, layer)
    (True, 1): [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
    (True, 2): [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    (True, 3): [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    (False, 1): [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    (False, 2): [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    (False, 3): [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz by version bits


@dataclass(frozen=True)
class Damage:
    """A cut-off file: seconds that arrived, and seconds promised where the file says so."""

    arrived: float
    promised: float | None


def find_damage(data: memoryview | bytes) -> Damage | None:
    """Damage of a wav, ogg or mp3 file, or None when it is whole or of a kind that cannot be told apart here.

    flac is not looked at: its header states the number of samples, which the caller compares with what it decoded.
    """
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return _wav_damage(data)
    if data[:4] == b"OggS":
        return _ogg_damage(data)
    if data[:3] == b"ID3" or _frame(data, 0):
        return _mp3_damage(data)
    return None


def _wav_damage(data: memoryview | bytes) -> Damage | None:
    position, bytes_a_second, block = 12, 0, 1
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"fmt " and position + 24 <= len(data):
            bytes_a_second, block = struct.unpack_from("<IH", data, position + 16)
        if name == b"data":
            arrived = len(data) - position - 8
            if size >= _STREAMED or arrived + max(block, 1) > size or not bytes_a_second:
                return None
            return Damage(arrived / bytes_a_second, size / bytes_a_second)
        position += 8 + size + size % 2
    return None


def _ogg_damage(data: memoryview | bytes) -> Damage | None:
    # Complete pages without an end-of-stream mark are left alone: recorders of live streams write those.
    tail = bytes(data[-70_000:])  # a page has at most 65,307 bytes
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return Damage(0.0, None)
    table = tail[start + 27 : start + 27 + tail[start + 26]]
    whole = len(table) == tail[start + 26] and start + 27 + len(table) + sum(table) <= len(tail)
    return None if whole else Damage(_ogg_seconds(data, tail[:start]), None)


def _ogg_seconds(data: memoryview | bytes, before: bytes) -> float:
    """Time reached by the last complete page: its granule position over the stream's rate."""
    head = bytes(data[:200])
    rate = 48_000.0  # Opus counts at 48 kHz always
    if (vorbis := head.find(b"\x01vorbis")) >= 0:
        rate = float(struct.unpack_from("<I", head, vorbis + 12)[0] or 48_000)
    page = before.rfind(b"OggS")
    granule = struct.unpack_from("<q", before, page + 6)[0] if page >= 0 and len(before) >= page + 14 else 0
    return max(granule, 0) / rate


def _frame(data: memoryview | bytes, at: int) -> tuple[int, int, int, int] | None:
    """(bytes, samples, Hz, first header bytes) of the MPEG audio frame whose header stands at `at`, or None."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bitrate, rate, pad = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = _RATES[version][rate]
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    slot = 4 if layer == 1 else 1
    size = (samples // 8 * _BITRATES[version == 3, layer][bitrate] * 1000 // hertz // slot + pad) * slot
    return size, samples, hertz, data[at + 1]


def _mp3_damage(data: memoryview | bytes) -> Damage | None:
    at = 0
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):  # an ID3v2 tag: its size has seven bits a byte
        at += 10 + (data[at + 6] << 21 | data[at + 7] << 14 | data[at + 8] << 7 | data[at + 9])
    if at > len(data):
        return Damage(0.0, None)
    first = _frame(data, at)
    if first is None:
        return None
    size, samples, hertz, kind = first
    head = bytes(data[at : at + min(size, 200)])
    mark = max(head.find(b"Xing"), head.find(b"Info"))
    if mark >= 0 and len(head) >= mark + 16:
        flags, frames, promised = struct.unpack_from(">III", head, mark + 4)
        if flags & 3 == 3 and promised:
            arrived, seconds = len(data) - at, frames * samples / hertz
            # Writers differ on whether the header frame itself counts: allow for it.
            if arrived + size + 1500 < promised:
                return Damage(seconds * arrived / promised, seconds)
    count = 0
    while (frame := _frame(data, at)) and frame[3] == kind:
        at, count = at + frame[0], count + 1
    return Damage((count - 1) * samples / hertz, None) if at > len(data) else None
