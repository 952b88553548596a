"""Seeded damage to files: what disks, editors, spreadsheets, downloads and strangers do to them."""

# ruff: noqa: E501 - tables, one row a line
from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
ESCAPE = "escaped-from-its-folder"  # begins every file name that leads out of a folder
HUGE = "9" * 5_000

# Other values for a field. Callables are made when they are drawn.
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31 - 1, 2**32, 2**63, 10**30, 1e308, 1e-308, float("nan"), float("inf"), -0.0, "", " ", "x",
    "NaN", "-1", "1e400", "\n", "a\nb", "a\0b", "\u202eabc", "caf\u00e9", "e\u0301", "\ufeffx", "\U0001f600", "\u2028",
    f"../{ESCAPE}", f"../../{ESCAPE}.npy", f"/tmp/{ESCAPE}", f"..\\{ESCAPE}", "C:x", "~", "${HOME}", "%s%n", "<b>", [], {}, [[]],
    [None], {"a": 1}, "x" * 100_000, [0] * 10_000, HUGE,
]  # fmt: skip


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


# Bytes.


def _place(rng: Rng, data: bytes) -> int:
    """A place in a file; one in two is in its head, where the structure is."""
    end = max(len(data), 1)
    return int(rng.integers(min(end, 256) if rng.random() < 0.5 else end))


def flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 8, 64]))):
        if changed:
            changed[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(data: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind < 0.3:  # a few bytes at the end
        return data[: -int(rng.integers(1, 64))]
    return data[: _place(rng, data)] if kind < 0.9 else b""


def zero(data: bytes, rng: Rng) -> bytes:
    at, length = _place(rng, data), int(rng.integers(1, max(len(data) // 4, 2)))
    gap = len(data[at : at + length])
    return data[:at] + bytes([int(rng.choice([0, 255]))]) * gap + data[at + gap :]


def splice(data: bytes, rng: Rng) -> bytes:
    begin, length, to = _place(rng, data), int(rng.integers(1, max(len(data) // 2, 2))), _place(rng, data)
    part = data[begin : begin + length]
    kind = rng.integers(3)
    if kind == 0:  # a copy put in
        return data[:to] + part + data[to:]
    if kind == 1:  # a copy over something else
        return data[:to] + part + data[to + len(part) :]
    return data[:begin] + data[begin + length :]


def noise(data: bytes, rng: Rng) -> bytes:
    at, made = _place(rng, data), rng.bytes(int(rng.integers(1, 64)))
    return data[:at] + made + data[at + int(rng.integers(2)) * len(made) :]


def number(data: bytes, rng: Rng) -> bytes:
    """An integer of the head becomes another one."""
    width = int(rng.choice([2, 4, 8]))
    at = int(rng.integers(max(min(len(data), 128) - width, 1)))
    value = int(rng.choice([0, 1, 7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1])) % 2 ** (8 * width)
    return data[:at] + value.to_bytes(width, str(rng.choice(["little", "big"]))) + data[at + width :]


def other_file(data: bytes, rng: Rng) -> bytes:
    others = [
        b"", b"\n", b"\0" * 1000, b"{}", b"[]", b"null", b"<!doctype html><html>404</html>", b"PK\x03\x04" + b"\0" * 60,
        b"\x80\x04N.", b"\x93NUMPY\x01\x00", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        rng.bytes(1000), data * 2, data[::-1],
    ]  # fmt: skip
    return others[rng.integers(len(others))]


BYTES: list[Callable[[bytes, Rng], bytes]] = [flip, flip, flip, cut, cut, zero, splice, noise, number, other_file]


# Text.


def encoding(data: bytes, rng: Rng) -> bytes:
    text = data.decode("utf-8", "replace")
    at = _place(rng, data)
    text = text[:at] + "\u00e9" + text[at:]
    return text.encode(str(rng.choice(["latin-1", "utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp1252"])), "replace")


def line_ends(data: bytes, rng: Rng) -> bytes:
    return data.replace(b"\n", [b"\r\n", b"\r", b"\n\n", b"\n \n", b""][rng.integers(5)])


def character(data: bytes, rng: Rng) -> bytes:
    at = _place(rng, data)
    put = [
        "\0",
        '"',
        ",",
        "\t",
        "\n",
        "\u200b",
        "\u202e",
        "\u2028",
        "\ufeff",
        "'",
        "\\",
        ";",
        "&a",
        "*a",
        "!!x ",
        "- ",
        "{",
        ": ",
    ]
    return data[:at] + put[rng.integers(len(put))].encode() + data[at + int(rng.integers(2)) :]


TEXT: list[Callable[[bytes, Rng], bytes]] = [encoding, line_ends, character, character]


def _table(delimiter: str | None) -> Callable[[bytes, Rng], bytes]:
    """Changes of a field or a line; fields without a delimiter stand between blanks."""

    def change(data: bytes, rng: Rng) -> bytes:
        lines = data.decode("utf-8", "replace").splitlines()
        if not lines:
            return data
        which = int(rng.integers(len(lines)))
        fields = lines[which].split(delimiter)
        at, kind = int(rng.integers(max(len(fields), 1))), rng.integers(9)
        if kind < 4 and fields:
            fields[at] = str(ODD[rng.integers(len(ODD))])
        elif kind == 4 and fields:
            del fields[at]
        elif kind == 5:
            fields.insert(at, ["", "x", "1"][rng.integers(3)])
        elif kind == 6:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[which])
        elif kind == 7:
            lines.insert(which, ["", "   ", "x", "#", ";;", '"'][rng.integers(6)])
        else:
            del lines[which]
            return "\n".join(lines).encode("utf-8", "replace") + b"\n"
        lines[min(which, len(lines) - 1)] = (delimiter or " ").join(fields)
        return "\n".join(lines).encode("utf-8", "replace") + b"\n"

    change.__name__ = "field"
    return change


# Trees: JSON, YAML, and what a PyTorch file holds.


def _nodes(tree: Any, found: list[tuple[Any, Any]], most: int = 20_000) -> list[tuple[Any, Any]]:
    """(container, key) of every value below the root."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        if len(found) >= most:
            break
        found.append((tree, key))
        if isinstance(value, dict | list):
            _nodes(value, found, most)
    return found


def change_tree(tree: Any, rng: Rng) -> Any:
    """Replace, remove, rename, repeat or swap one value of a tree of dicts and lists, in place; returns the root."""
    nodes = _nodes(tree, []) if isinstance(tree, dict | list) else []
    if not nodes or rng.random() < 0.03:
        return ODD[rng.integers(len(ODD))]
    # The upper ones count as much as the many leaves.
    box, key = nodes[rng.integers(len(nodes)) if rng.random() < 0.5 else rng.integers(min(len(nodes), 40))]
    kind = rng.integers(10)
    if kind < 5:
        box[key] = ODD[rng.integers(len(ODD))]
    elif kind == 5:
        del box[key]
    elif kind == 6:
        box[key] = near(box[key], rng)
    elif kind == 7 and isinstance(box, dict):
        box[str(ODD[rng.integers(len(ODD))])] = box.pop(key) if rng.random() < 0.5 else box[key]
    elif kind == 7:
        box.insert(key, box[key])
    else:
        other, place = nodes[rng.integers(len(nodes))]
        if key in (box if isinstance(box, dict) else range(len(box))):
            box[key], other[place] = other[place], box[key]
            json_size(tree)  # a swap of a value with one inside it would make a circle
    return tree


def json_size(tree: Any) -> int:
    return len(json.dumps(tree, default=str))


def near(value: Any, rng: Rng) -> Any:
    """Nearly the same value: wrong by one, or of another type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return [value + 1, value - 1, -value, float(value), str(value), value * 2**32][rng.integers(6)]
    if isinstance(value, float):
        return [value * 1.01, -value, str(value), [value]][rng.integers(4)]
    if isinstance(value, str):
        return [value[:-1], value + "x", value.upper(), [value], value[::-1]][rng.integers(5)]
    return [value]


def _json(data: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.06:
        return [deep(2_000), deep(100_000), '{"a":' * 50_000, HUGE, "-" + HUGE, '{"a": 1, "a": 2}', "NaN"][
            rng.integers(7)
        ].encode()
    for _ in range(5):
        try:
            return json.dumps(change_tree(json.loads(data), rng)).encode()
        except (ValueError, RecursionError):  # a circle
            continue
    return data


_json.__name__ = "value"


def _json_lines(data: bytes, rng: Rng) -> bytes:
    lines = data.splitlines(keepends=True)
    which = int(rng.integers(len(lines)))
    lines[which] = _json(lines[which], rng) + b"\n" if rng.random() < 0.8 else lines[which][: len(lines[which]) // 2]
    return b"".join(lines)


_json_lines.__name__ = "line"
ALIASES = "\n".join(["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)])
YAML = [
    ALIASES, "a: &a [*a]", "!!python/object/apply:os.mkdir [x]", "a: !!timestamp x", "a: !!int x", "a: !!binary x", deep(3_000),
    "- a\n- b", "3", "a: b: c", "\ta: 1", "%YAML 9.9\n---\n{}", "a: 1\n---\nb: 2", "? [a]\n: 1", "<<: [1]", "a: 2020-99-99",
    f"a: {HUGE}", "a: 1e999", "a: 190:20:30", "null: 1\n1: 2\ntrue: 3",
]  # fmt: skip


def _yaml(data: bytes, rng: Rng) -> bytes:
    import yaml

    kind = rng.random()
    if kind < 0.15:
        return YAML[rng.integers(len(YAML))].encode()
    if kind < 0.3:
        return data + b"\n" + YAML[rng.integers(len(YAML))].encode()
    for _ in range(5):
        try:
            tree = change_tree(yaml.safe_load(data), rng)
            json_size(tree)
            return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError, yaml.YAMLError):
            continue
    return data


_yaml.__name__ = "value"


# Arrays and tensors.


def change_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    """Other values, type or shape."""
    array = array.copy()
    flat = array.reshape(-1)
    kind = rng.integers(9)
    if kind < 3 and flat.size:
        some = flat[rng.integers(flat.size, size=1 if kind else 5)]
        wrong = (
            [np.nan, np.inf, -np.inf, 1e30]
            if array.dtype.kind == "f"
            else [0, 1, some[0] + 1, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1]
        )
        flat[rng.integers(flat.size)] = np.asarray(wrong[rng.integers(4)]).astype(array.dtype)
        return array
    return [
        lambda: array[:-1], lambda: array[None], lambda: array.reshape(-1), lambda: array[:0], lambda: np.float64(3.0) * np.ones(()),
        lambda: array.astype([np.float64, np.int8, np.complex64, bool][rng.integers(4)]),
    ][kind - 3]() if array.ndim else array[None]  # fmt: skip


def _npy(data: bytes, rng: Rng) -> bytes:
    array, buffer = np.load(io.BytesIO(data)), io.BytesIO()
    if rng.random() < 0.2:
        np.savez(buffer, array)
    elif rng.random() < 0.2:
        np.save(buffer, np.array([None, array], dtype=object), allow_pickle=True)
    else:
        np.save(buffer, change_array(array, rng))
    return buffer.getvalue()


_npy.__name__ = "array"


def _safetensors(data: bytes, rng: Rng) -> bytes:
    """A value of the header, or a tensor of a file that is written anew (without a change of its metadata)."""
    from safetensors.numpy import load, save

    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.4:
        made = json.dumps(change_tree(header, rng)).encode()
        return struct.pack("<Q", len(made)) + made + data[8 + length :]
    tensors = load(data)
    name = sorted(tensors)[rng.integers(len(tensors))]
    kind = rng.random()
    if kind < 0.7:
        tensors[name] = np.ascontiguousarray(change_array(tensors[name], rng))
    elif kind < 0.85:
        del tensors[name]
    else:
        tensors[f"../{ESCAPE}"] = tensors.pop(name)
    try:
        return save(tensors, metadata=header.get("__metadata__"))
    except Exception:  # types that the format does not have
        return data[: len(data) // 2]


_safetensors.__name__ = "tensor"


def _torch(data: bytes, rng: Rng) -> bytes:
    """A PyTorch file with another value or tensor in it, written as torch writes it, so its check sums are right."""
    import torch

    tree = torch.load(io.BytesIO(data), weights_only=True)
    buffer = io.BytesIO()
    tensors = [(box, key) for box, key in _nodes(tree, []) if isinstance(box[key], torch.Tensor)]
    if rng.random() < 0.5 and tensors:
        box, key = tensors[rng.integers(len(tensors))]
        kind = rng.integers(6)
        if kind < 3:
            box[key] = torch.from_numpy(np.array(change_array(box[key].numpy(), rng)))
        elif kind == 3:
            box[key] = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        else:
            box[key] = [torch.ones(2, 2).to_sparse(), torch.ones(3, device="meta"), torch.nn.Parameter(torch.ones(2))][
                rng.integers(3)
            ]
    else:
        tree = change_tree(tree, rng)
    torch.save(tree, buffer, _use_new_zipfile_serialization=bool(rng.random() < 0.8))
    return buffer.getvalue()


_torch.__name__ = "value"

FORMS: dict[str, list[Callable[[bytes, Rng], bytes]]] = {
    "bytes": BYTES,
    "json": [*[_json] * 10, *TEXT, *BYTES[2:]],
    "jsonl": [*[_json_lines] * 8, *TEXT, *BYTES[2:]],
    "yaml": [*[_yaml] * 12, *TEXT, *BYTES[2:]],
    "csv": [*[_table(",")] * 8, *TEXT, *BYTES[2:]],
    "tsv": [*[_table("\t")] * 8, *TEXT, *BYTES[2:]],
    "words": [*[_table(None)] * 8, *TEXT, *BYTES[2:]],
    "npy": [*[_npy] * 6, *BYTES],
    "safetensors": [*[_safetensors] * 10, *BYTES],
    "torch": [*[_torch] * 10, *BYTES],
}
csv.field_size_limit(10**7)


def mutate(data: bytes, form: str, rng: Rng) -> tuple[str, bytes]:
    """Name of the damage and the damaged file."""
    ways = FORMS[form]
    way = ways[rng.integers(len(ways))]
    return way.__name__.strip("_"), way(data, rng)
