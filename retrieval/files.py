"""A file from outside as bytes, or one line that says what is wrong with it."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieval.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


def read_binary_file(path: Path) -> bytes:
    """The file's bytes, unpacked where gzip packed them. Raises InputError when it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not data.strip():
        raise InputError(f"{path}: is empty")
    return data


def read_text_file(path: Path) -> bytes:
    """As `read_binary_file`, and known to be UTF-8 without NUL; a byte order mark is taken off."""
    data = read_binary_file(path).removeprefix(codecs.BOM_UTF8)
    _refuse_not_text(path, data, 1)
    return data


def read_text_chunks(
    path: Path, *, size: int = 32 << 20, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[tuple[int, bytes]]:
    """As `read_text_file`, a part at a time: (the number of its first line, some `size` bytes of whole lines).

    progress(done, total) is in bytes of the file as it lies there. Raises InputError as `read_text_file` does, and for
    a line longer than `size`, which no text has.
    """
    try:
        with path.open("rb") as raw:
            total = path.stat().st_size
            packed = raw.peek(2).startswith(_GZIP_MAGIC)
            read = io.BufferedReader(gzip.GzipFile(fileobj=raw)).read if packed else raw.read
            yield from _whole_lines(path, read, size, lambda: progress(min(raw.tell(), total), total))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _whole_lines(
    path: Path, read: Callable[[int], bytes], size: int, advanced: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    line, rest, first, filled = 1, b"", True, False
    while data := read(size):
        if first:
            data, first = data.removeprefix(codecs.BOM_UTF8), False
        advanced()
        whole, newline, after = data.rpartition(b"\n")
        if not newline:
            if len(rest) + len(data) > size:
                raise InputError(f"{path}, line {line}: is longer than {size >> 20} MiB; is this a text file?")
            rest += data
            continue
        chunk, rest = b"".join((rest, whole, newline)), after
        _refuse_not_text(path, chunk, line)
        filled = filled or not chunk.isspace()
        yield line, chunk
        line += chunk.count(b"\n")
    if rest:
        _refuse_not_text(path, rest, line)
        filled = filled or not rest.isspace()
        yield line, rest
    if not filled:
        raise InputError(f"{path}: is empty")


def _refuse_not_text(path: Path, data: bytes, first_line: int) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + first_line
            raise InputError(f"{path}, line {line}: is not UTF-8 text ({error.reason})") from error
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + first_line
        raise InputError(f"{path}, line {line}: holds a NUL character")


def squeezed(data: bytes, longer: bytes, shorter: bytes) -> bytes:
    """`data` with `longer` replaced by `shorter` until there is none left."""
    while longer in data:
        data = data.replace(longer, shorter)
    return data
