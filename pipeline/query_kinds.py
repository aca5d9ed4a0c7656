"""What kind of query is it? Queries cut into a few named groups, so that results can be read group by group.

`length`: words; `form`: question or keywords; `relevant`: how many documents are judged relevant; and any column of
QUERIES that a user's data brings along.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from retrieval.errors import InputError
from retrieval.frames import QUERIES, check

MOST_GROUPS = 20

_WORDS = {1: "1 word", 3: "2–3 words", 6: "4–6 words", 10: "7–10 words"}
NONE_RELEVANT = "none relevant"
_RELEVANT = {0: NONE_RELEVANT, 1: "1 relevant", 4: "2–4 relevant", 9: "5–9 relevant"}
_QUESTION = (
    r"(?i)^\s*(who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|should|will|would|has|"
    r"have)\b|\?\s*$"
)


def groups(
    qids: pl.Series,
    *,
    relevant: Mapping[str, int] | None = None,
    queries: pl.DataFrame | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, pl.DataFrame]:
    """Kind → a frame of `qid` (all of `qids`, in order), `group` (String) and `place` (the group's order).

    relevant: qid → the number of documents judged relevant. queries: QUERIES with metadata columns.
    kinds: those wanted, each `length`, `form`, `relevant` or a column of `queries`; all but columns where it is None
        and there is what they need. `form` knows English question words and the question mark.

    Raises InputError for a kind that is neither, that needs what is not given, or has over 20 groups, and where
    `queries` lacks one of `qids`.
    """
    asked = _asked(qids, queries)
    known = {
        **({} if asked is None else {"length": _by_size(_words(asked["query"]), _WORDS, "11 or more words")}),
        **({} if asked is None else {"form": _form(asked["query"])}),
        **(
            {}
            if relevant is None
            else {"relevant": _by_size(_counts(qids, relevant), _RELEVANT, "10 or more relevant")}
        ),
    }
    found = {}
    for kind in known if kinds is None else dict.fromkeys(kinds):
        if kind in known:
            found[kind] = known[kind]
        elif asked is not None and kind in asked.columns and kind not in QUERIES:
            found[kind] = _column(asked[kind])
        else:
            columns = [] if asked is None else [name for name in asked.columns if name not in QUERIES]
            there = ", ".join([*known, *columns]) or "none without queries and judgements"
            raise InputError(f"unknown kind of query {kind!r}; known here: {there}")
    return {kind: frame.with_columns(qid=qids) for kind, frame in found.items()}


def _asked(qids: pl.Series, queries: pl.DataFrame | None) -> pl.DataFrame | None:
    if queries is None:
        return None
    check(queries, QUERIES, "queries")
    found = qids.to_frame("qid").join(queries.unique("qid"), on="qid", how="left", maintain_order="left")
    if found["query"].null_count():
        missing = found.filter(pl.col("query").is_null())["qid"]
        raise InputError(f"queries: {missing.len()} judged queries are not there, such as {missing[0]!r}")
    return found


def _words(text: pl.Series) -> pl.Series:
    return text.str.count_matches(r"\S+")


def _counts(qids: pl.Series, relevant: Mapping[str, int]) -> pl.Series:
    return pl.Series([relevant.get(qid, 0) for qid in qids], dtype=pl.Int64)


def _by_size(sizes: pl.Series, names: Mapping[int, str], more: str) -> pl.DataFrame:
    """Each size under the first name whose number it does not exceed."""
    limits, labels = list(names), [*names.values(), more]
    place = sizes.to_frame("n").select(sum((pl.col("n") > limit).cast(pl.Int32) for limit in limits)).to_series()
    return pl.DataFrame({"group": [labels[row] for row in place], "place": place})


def _form(text: pl.Series) -> pl.DataFrame:
    question = text.str.contains(_QUESTION)
    return pl.DataFrame(
        {"group": ["question" if yes else "keywords" for yes in question], "place": (~question).cast(int)}
    )


def _column(values: pl.Series) -> pl.DataFrame:
    labels = values.cast(pl.String).fill_null("none")
    if labels.n_unique() > MOST_GROUPS:
        raise InputError(
            f"kind {values.name!r}: has {labels.n_unique()} different values; at most {MOST_GROUPS} are groups"
        )
    order = {label: place for place, label in enumerate(_in_order(values.unique(), labels.unique()))}
    return pl.DataFrame({"group": labels, "place": [order[label] for label in labels]})


def _in_order(values: pl.Series, labels: pl.Series) -> list[str]:
    """Numbers by size, everything else as text."""
    return (
        values.sort().cast(pl.String).fill_null("none").to_list()
        if values.dtype.is_numeric()
        else labels.sort().to_list()
    )
