"""What every reader does before it trusts a file, and how a library's exception becomes a sentence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import textwrap
import tokenize
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError

__all__ = ["Payload", "check_claim", "file_name", "little_endian", "printable", "read_payload", "reading", "sniff"]

# What the readers' libraries raise on broken files, by trial; broken PNG and XML come as SyntaxError
READER_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, tokenize.TokenError, struct.error, zlib.error, lzma.LZMAError,
)  # fmt: skip

# Deflate cannot do better than 1032:1. Other codecs can, on empty pictures, so small claims are always believed
MAX_RATIO = 1100
BELIEVED_BYTES = 256 * 2**20
CHUNK_BYTES = 2**20
MAX_TRAILING_BYTES = 64 * 2**20

_MAGIC = (
    (b"\x89PNG\r\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"GIF8", "GIF"), (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"NRRD", "NRRD"), (b"\x93NUMPY", "NumPy"),
    (b"ObjectType", "MetaImage"), (b"PK\x03\x04", "ZIP"), (b"%PDF", "PDF"), (b"\x89HDF", "HDF5"),
)  # fmt: skip


def file_name(path: Path) -> str:
    """The file's name fit for one line of text."""
    return printable(path.name or str(path))


def printable(text: str) -> str:
    """The text on one line, with ? for what cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@contextmanager
def reading(path: Path, kind: str, *also: type[Exception]) -> Iterator[None]:
    """Turn what goes wrong while `path` is read as a `kind` into an ImageError that names the file.

    `also` are exceptions of the library at hand that are no kind of Python's own.

    Warnings of the libraries are dropped: what matters of them is checked, and a front end shows one sentence.
    """
    name = file_name(path)
    errors = (*READER_ERRORS, *also)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError as error:
        # A header's text may stand in the message, with line breaks and worse
        message = printable(str(error))
        if name in message and message == str(error):
            raise
        raise ImageError(message if name in message else f"{name}: {message}") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be opened: permission denied. Ask its owner to allow reading.") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit into memory. Close programs or cut the image into parts.") from error
    except errors as error:
        raise ImageError(
            f"{name} is damaged or no readable {kind} file ({_one_line(error)}). Copy or export it again."
        ) from error


def _one_line(error: BaseException) -> str:
    """Take the first line of an exception's text, short."""
    lines = str(error).strip().splitlines()
    text = "".join(letter for letter in (lines[0] if lines else type(error).__name__) if letter.isprintable())
    return textwrap.shorten(text, 120, placeholder=" ...").rstrip(". ")


def sniff(path: Path) -> str | None:
    """The format that the first bytes of a file speak of, None where they say nothing."""
    with path.open("rb") as file:
        head = file.read(352)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[128:132] == b"DICM":
        return "DICOM"
    return "NIfTI" if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0") else None


def check_claim(path: Path, claimed_bytes: int, stored_bytes: int, is_compressed: bool) -> None:
    """Refuse a header that promises more than the file can hold, before memory is taken for it.

    Parameters
    ----------
    path : for the message
    claimed_bytes : size of the pixels by the header
    stored_bytes : bytes in the file that can hold pixels
    is_compressed : the pixels are packed, so they may grow

    Raises
    ------
    ImageError : the promise cannot be kept
    """
    possible = max(BELIEVED_BYTES, MAX_RATIO * stored_bytes) if is_compressed else stored_bytes
    if claimed_bytes > possible:
        raise ImageError(
            f"{file_name(path)} is cut off or its header is wrong: it promises {claimed_bytes:,} bytes of pixels, "
            f"but only {stored_bytes:,} are there. Copy or export it again."
        )


@dataclass(frozen=True)
class Payload:
    """Where a file keeps its numbers, and how.

    Parameters
    ----------
    path : file that holds them
    offset : first byte of them in the file
    dtype : of the numbers, with byte order
    count : how many
    encoding : raw, gzip, zlib, bzip2 or text
    skip_bytes : bytes to pass over after unpacking
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    count: int
    encoding: str = "raw"
    skip_bytes: int = 0


def read_payload(payload: Payload) -> NDArray[Any]:
    """The numbers, (count,) in the machine's byte order; checksums of the packing are verified.

    Raises
    ------
    ImageError : fewer are there than promised
    """
    n_bytes = payload.count * payload.dtype.itemsize
    stored = max(0, payload.path.stat().st_size - payload.offset)
    with payload.path.open("rb") as file:
        file.seek(payload.offset)
        if payload.encoding == "text":
            check_claim(payload.path, 2 * payload.count, stored + 1, is_compressed=False)
            return _parse_text(payload, file.read())
        check_claim(payload.path, n_bytes + payload.skip_bytes, stored, payload.encoding != "raw")
        buffer = np.empty(n_bytes, dtype=np.uint8)
        n_read = _fill(buffer, _chunks(file, payload.encoding), payload.skip_bytes)
    if n_read < n_bytes:
        raise ImageError(
            f"{file_name(payload.path)} is cut off: {n_read:,} of {n_bytes:,} bytes of pixels are there. "
            "Copy or export it again."
        )
    values = buffer.view(payload.dtype)
    return values if payload.dtype.isnative else values.astype(payload.dtype.newbyteorder("="))


def _parse_text(payload: Payload, text: bytes) -> NDArray[Any]:
    """Numbers written out, separated by blanks or commas."""
    words = text.replace(b",", b" ").split()
    if len(words) < payload.count:
        raise ImageError(f"{file_name(payload.path)} is cut off: {len(words)} of {payload.count} numbers are there. "
                         "Copy or export it again.")
    return np.array(words[: payload.count]).astype(np.float64).astype(payload.dtype.newbyteorder("="))


def _chunks(file: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The unpacked bytes, a piece at a time."""
    if encoding == "zlib":
        yield from _unzlib(file)
        return
    opened: Any = {"raw": lambda: file, "gzip": lambda: gzip.GzipFile(fileobj=file), "bzip2": lambda: bz2.BZ2File(file)}
    stream = opened[encoding]()
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _unzlib(file: IO[bytes]) -> Iterator[bytes]:
    """A single zlib or gzip stream, in pieces; its checksum is verified by zlib at the end."""
    unpacker = zlib.decompressobj(wbits=47)  # 32 + 15: either header
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(CHUNK_BYTES)
        chunk = unpacker.decompress(packed, CHUNK_BYTES)
        if not packed and not chunk:
            raise EOFError("the compressed data end too early")
        yield chunk


def _fill(buffer: NDArray[np.uint8], chunks: Iterator[bytes], skip_bytes: int) -> int:
    """Copy the chunks into the buffer; how many bytes came. What lies behind is read too: a checksum ends the file."""
    position = -skip_bytes
    for chunk in chunks:
        start, stop = max(0, position), min(len(buffer), position + len(chunk))
        if stop > start:
            buffer[start:stop] = np.frombuffer(chunk, np.uint8)[start - position : stop - position]
        position += len(chunk)
        if position > len(buffer) + MAX_TRAILING_BYTES:
            break
    return max(0, min(position, len(buffer)))


def little_endian(values: NDArray[Any]) -> memoryview:
    """The bytes of an array, C order, lowest byte first, for writing."""
    ordered: Any = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return memoryview(ordered.reshape(-1).view(np.uint8))
