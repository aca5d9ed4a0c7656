"""What may be asked: the check that every query passes, one typed online and a file of them alike."""

from collections.abc import Callable

import polars as pl

from retrieval.errors import InputError

QUERY_LIMIT = 8_192
"""The most characters (Unicode code points) a query may have."""


def check_query(text: str, where: str = "query") -> str:
    """Return `text` when it may be asked; `where` names it in the error, which never repeats the query itself.

    Raises InputError for a query that is empty or white space alone, has more than QUERY_LIMIT characters, or holds a
    NUL or a lone surrogate.
    """
    if len(text) > QUERY_LIMIT:
        raise InputError(f"{where}: has {len(text):,} characters; the limit is {QUERY_LIMIT:,}")
    if not text.strip():
        raise InputError(f"{where}: is empty; a query needs at least one visible character")
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character; a query must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: holds a lone surrogate (character {error.start + 1}); a query must be valid Unicode"
        ) from None
    return text


def check_queries(texts: pl.Series, where: Callable[[int], str]) -> None:
    """Hold a String Series of queries to `check_query`; `where(row)` names a row in the error."""
    # \x1c-\x1f: white space to Python's strip, not to Unicode's \s.
    visible = texts.str.contains(r"[^\s\x1c-\x1f]")
    suspect = ~visible | (texts.str.len_chars() > QUERY_LIMIT) | texts.str.contains("\0", literal=True)
    for row in suspect.arg_true():
        check_query(texts[row], where(row))
