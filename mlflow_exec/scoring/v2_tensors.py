"""The tensors of the Open Inference Protocol (v2), as JSON and as bytes, from and to numpy.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and its extension for binary tensors: a JSON header, then the bytes of each tensor in turn.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1",
    "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
_FROM = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""The kinds of numbers in JSON that a tensor's kind is made of."""


class TensorError(ValueError):
    """A request's tensors cannot be read; the message names the tensor."""


def parse(body: bytes, header_bytes: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request's JSON, and its input tensors by name.

    Args:
        body: The whole body.
        header_bytes: How much of it is JSON; None: all.

    Raises:
        TensorError: It is no request, or a tensor is not what its head says.
    """
    end = len(body) if header_bytes is None else header_bytes
    if not 0 <= end <= len(body):
        raise TensorError(
            f"Inference-Header-Content-Length: {end} is not within the body of {len(body)} bytes"
        )
    try:
        request = json.loads(body[:end])
        inputs = request["inputs"]
        heads = [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in inputs]
    except (ValueError, KeyError, TypeError) as error:
        raise TensorError(
            "the request must be JSON with inputs, each with name, datatype and shape: "
            f"{type(error).__name__}: {error}"
        ) from error
    rest = memoryview(body)[end:]
    tensors: dict[str, Any] = {}
    for given, (name, datatype, shape) in zip(inputs, heads):
        if name in tensors:
            raise TensorError(f"input {name}: is there twice")
        if datatype != "BYTES" and datatype not in DTYPES:
            raise TensorError(f"input {name}: the datatype {datatype} is not known")
        size = (given.get("parameters") or {}).get("binary_data_size")
        if size is None:
            flat = _of_json(name, datatype, given.get("data"))
        elif not isinstance(size, int) or not 0 <= size <= len(rest):
            raise TensorError(f"input {name}: binary_data_size {size!r}: only {len(rest)} are left")
        else:
            flat, rest = _of_bytes(name, datatype, rest[:size]), rest[size:]
        tensors[name] = _shaped(name, flat, shape)
    if len(rest):
        raise TensorError(f"the body has {len(rest)} bytes more than its tensors")
    return request, tensors


def _shaped(name: str, flat: Any, shape: list[int]) -> Any:
    if min(shape, default=0) < 0 or math.prod(shape) != flat.size:
        raise TensorError(f"input {name}: {flat.size} values do not fill the shape {shape}")
    return flat.reshape(shape)


def _of_json(name: str, datatype: str, data: Any) -> Any:
    if not isinstance(data, list):
        raise TensorError(f"input {name}: data must be a list; given: {type(data).__name__}")
    try:
        natural = np.array(data)
    except ValueError as error:
        raise TensorError(f"input {name}: its lists are not of equal length") from error
    if datatype == "BYTES":
        if natural.size and natural.dtype.kind != "U":
            raise TensorError(f"input {name}: BYTES in JSON must be texts")
        return np.array(data, dtype=object).ravel()
    dtype = np.dtype(DTYPES[datatype])
    if natural.size and natural.dtype.kind not in _FROM[dtype.kind]:
        raise TensorError(f"input {name}: the data is not of {datatype}")
    cast = natural.astype(dtype)
    if dtype.kind in "iu" and not (cast == natural).all():
        raise TensorError(f"input {name}: a number is outside of {datatype}")
    return cast.ravel()


def _of_bytes(name: str, datatype: str, raw: memoryview) -> Any:
    if datatype == "BYTES":
        return np.array(_texts(name, raw), dtype=object)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise TensorError(f"input {name}: {len(raw)} bytes are no whole number of {datatype}")
    return np.frombuffer(raw, dtype=dtype).astype(dtype.newbyteorder("="))


def _texts(name: str, raw: memoryview) -> list[str]:
    texts, start = [], 0
    try:
        while start < len(raw):
            [size] = struct.unpack_from("<I", raw, start)
            start += 4 + size
            if start > len(raw):
                raise TensorError(f"input {name}: a text goes beyond its bytes")
            texts.append(bytes(raw[start - size : start]).decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise TensorError(f"input {name}: its bytes are no texts in UTF-8: {error}") from error
    return texts


def write(
    head: dict[str, Any], outputs: dict[str, Any], binary: frozenset[str]
) -> tuple[bytes, int | None]:
    """Return a response's body, and how much of it is JSON where there is more.

    Args:
        head: What is in the response besides its outputs.
        outputs: The tensors by name.
        binary: The outputs that are to be bytes.
    """
    described, blobs = [], []
    for name, array in outputs.items():
        is_number = array.dtype in _NAMES
        datatype = _NAMES[array.dtype] if is_number else "BYTES"
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if name in binary:
            blob = _bytes_of(array) if is_number else _bytes_of_texts(array)
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            flat = array.ravel()
            tensor["data"] = flat.tolist() if is_number else [str(value) for value in flat]
        described.append(tensor)
    text = json.dumps({**head, "outputs": described}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _bytes_of(array: Any) -> bytes:
    return bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _bytes_of_texts(array: Any) -> bytes:
    texts = [str(value).encode() for value in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
