#!/usr/bin/env python3
"""Reads a safetensors file with Python's safetensors and compares it with what its writer says it holds.

    read_back.py FILE EXPECTED.json

EXPECTED.json: {"metadata": {...}, "tensors": {name: {"shape": [...], "dtype": "float32", "values": [...]}}}
with the values flattened; every value must be one that the dtype represents. Needs no torch and no numpy.
"""

import json
import struct
import sys
from pathlib import Path

from safetensors import deserialize

# dtype name -> (name in the file, struct code of one element, or None where it has none)
DTYPES = {
    "float64": ("F64", "d"),
    "float32": ("F32", "f"),
    "float16": ("F16", "e"),
    "bfloat16": ("BF16", None),
    "int64": ("I64", "q"),
    "int32": ("I32", "i"),
    "int16": ("I16", "h"),
    "int8": ("I8", "b"),
    "uint8": ("U8", "B"),
    "bool": ("BOOL", "?"),
}


def decode(name, data):
    """The elements as Python numbers."""
    code = DTYPES[name][1]
    if code is None:  # bfloat16 is the upper half of a float32
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def differences(path, expected):
    blob = path.read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    if header.get("__metadata__") != expected["metadata"]:
        yield f"metadata: got {header.get('__metadata__')}, expected {expected['metadata']}"
    found = dict(deserialize(blob))
    for name in sorted(set(found) | set(expected["tensors"])):
        if name not in found:
            yield f"{name}: missing"
            continue
        if name not in expected["tensors"]:
            yield f"{name}: unexpected"
            continue
        got, want = found[name], expected["tensors"][name]
        if got["dtype"] != DTYPES[want["dtype"]][0]:
            yield f"{name}: got dtype {got['dtype']}, expected {DTYPES[want['dtype']][0]}"
        elif list(got["shape"]) != want["shape"]:
            yield f"{name}: got shape {list(got['shape'])}, expected {want['shape']}"
        elif decode(want["dtype"], bytes(got["data"])) != want["values"]:
            yield f"{name}: got {decode(want['dtype'], bytes(got['data']))}, expected {want['values']}"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    path, expected = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    found = list(differences(path, expected))
    if found:
        sys.exit("\n".join(f"[read_back] {path.name}: {line}" for line in found))
    print(f"{len(expected['tensors'])} tensors agree")


if __name__ == "__main__":
    main()
