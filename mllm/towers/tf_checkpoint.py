"""Reads TensorFlow checkpoints (`.index` + `.data-?????-of-?????`) without TensorFlow and without pickle.

The `.index` file is a LevelDB table ("SSTable") whose values are `BundleEntryProto` messages: where each tensor
lies in the data file. Sources: LevelDB `doc/table_format.md`; TensorFlow `core/protobuf/tensor_bundle.proto` and
`core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mllm.errors import WeightsError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # tensorflow DataType -> little-endian numpy


def read_tf_checkpoint(prefix: str | Path, names: set[str] | None = None) -> dict[str, np.ndarray]:
    """Reads tensors of a checkpoint.

    `prefix` is what TensorFlow calls the path: `<prefix>.index` and `<prefix>.data-00000-of-00001` are read; a
    folder (with a trailing nameless prefix, as in the musicnn wheel) is allowed. `names` keeps only these tensors.

    Returns name -> array in the shape and dtype of the checkpoint (copies, writable).
    Raises WeightsError where a file is missing, truncated or not of this format, or where a name is absent.
    """
    folder, stem = (Path(prefix), "") if Path(prefix).is_dir() else (Path(prefix).parent, Path(prefix).name)
    index = folder / f"{stem}.index"
    try:
        entries = dict(_table(index.read_bytes()))
        header = _message(entries.pop(b""))
        shards = header.get(1, [0])[0]
        if header.get(2, [0])[0] != 0:
            raise ValueError("it is big-endian")
        tensors = {}
        for key, value in entries.items():
            name = key.decode("utf-8", "strict")
            if names is None or name in names:
                tensors[name] = _tensor(_message(value), folder, stem, shards)
    except OSError as error:
        raise WeightsError(f"cannot read TensorFlow checkpoint {index}: {error.strerror}; fetch it again") from error
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise WeightsError(f"{index} is not a readable TensorFlow checkpoint ({error}); fetch it again") from error
    missing = sorted((names or set()) - tensors.keys())
    if missing:
        raise WeightsError(f"TensorFlow checkpoint {index} lacks the tensor {missing[0]}; is it another model?")
    return tensors


def _tensor(entry: dict[int, list], folder: Path, stem: str, shards: int) -> np.ndarray:
    if 7 in entry:
        raise ValueError("it has partitioned tensors")
    dtype = np.dtype(_DTYPES[entry[1][0]])
    dims = _message(entry[2][0]).get(2, []) if 2 in entry else []
    shape = [_message(dim).get(1, [0])[0] for dim in dims]
    shard, offset, size = (entry.get(field, [0])[0] for field in (3, 4, 5))
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor's size does not fit its shape")
    data = folder / f"{stem}.data-{shard:05d}-of-{shards:05d}"
    with data.open("rb") as file:
        file.seek(offset)
        raw = file.read(size)
    if len(raw) != size:
        raise ValueError(f"{data.name} is truncated")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All key-value pairs of a LevelDB table."""
    if len(data) < _FOOTER_BYTES or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise ValueError("the LevelDB footer is missing")
    at = len(data) - _FOOTER_BYTES
    for _ in range(2):  # the meta index handle, which is not needed
        _, at = _varint(data, at)
    for _, handle in _block(data, *_handle(data, at)):
        yield from _block(data, *_handle(handle, 0))


def _handle(data: bytes, at: int) -> tuple[int, int]:
    offset, at = _varint(data, at)
    return offset, _varint(data, at)[0]


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of one block; keys are stored as (bytes shared with the key before, the rest)."""
    block = data[offset : offset + size]
    if len(block) != size or offset + size >= len(data):
        raise ValueError("a block is truncated")
    if data[offset + size] != 0:
        raise ValueError("its index is compressed")
    restarts = struct.unpack_from("<I", block, size - 4)[0]
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + length]
        at += rest + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def _message(data: bytes) -> dict[int, list]:
    """The fields of a protobuf message: number -> values (ints, or bytes for nested messages)."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + width], "little"), at + width
        else:
            raise ValueError("a protobuf field has an unknown wire type")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
