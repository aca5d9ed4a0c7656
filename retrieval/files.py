"""A file from outside as bytes, or one line that says what is wrong with it."""

import codecs
import gzip
import zlib
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
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise InputError(f"{path}, line {line}: is not UTF-8 text ({error.reason})") from error
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL character")
    return data
