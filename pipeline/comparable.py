"""May these figures stand side by side? What each system was judged on, as fingerprints, and the refusals and labels.

Other queries, judgements or splits are refused: such figures do not compare. Other candidates or features are labelled:
they do, but the difference is not the ranker's alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import polars as pl

from pipeline.evaluated import Fingerprints
from retrieval.errors import InputError
from retrieval.frames import PAIRS, QRELS, QUERIES, check


@dataclass(frozen=True)
class Judged:
    """One system's figures, and what they were judged on.

    per_query: `retrieval.metrics.per_query`'s frame; beside the metrics compared it may hold `ndcg_cut_K` or
        `ndcg_exp_cut_K` at the cutoffs of the curve.
    candidates, features: fingerprints of the (qid, docid) ranked and of the set of features read, None where unknown.
    answered: judged queries with at least one document ranked, None where unknown.
    """

    per_query: pl.DataFrame
    fingerprints: Fingerprints
    split: str = "test"
    candidates: str | None = None
    features: str | None = None
    answered: int | None = None


def refuse_strangers(judged: Mapping[str, Judged]) -> Judged:
    """The first system, once no other is found to have been judged on anything else."""
    if not judged:
        raise InputError("nothing to evaluate; name at least one system")
    name, first = next(iter(judged.items()))
    for other, system in judged.items():
        ours, theirs = first.fingerprints, system.fingerprints
        if system.split != first.split:
            raise InputError(
                f"{name} and {other} do not compare: judged on the split {first.split!r} and on {system.split!r}"
            )
        if ours.queries != theirs.queries or (ours.texts and theirs.texts and ours.texts != theirs.texts):
            raise InputError(f"{name} and {other} do not compare: they were judged on different queries")
        if ours.qrels != theirs.qrels:
            raise InputError(f"{name} and {other} do not compare: they were judged by different qrels")
    return first


def labels(judged: Mapping[str, Judged]) -> dict[str, str]:
    """Name → `A`, `B`, … by candidates and `1`, `2`, … by features, each only where systems differ in it."""
    return labels_of({name: (system.candidates, system.features) for name, system in judged.items()})


def labels_of(known: Mapping[str, tuple[str | None, str | None]]) -> dict[str, str]:
    """`labels`, from name → the fingerprints of its candidates (`?` where unknown) and features (no number)."""
    candidates = list(dict.fromkeys(key for key, _ in known.values() if key is not None))
    features = list(dict.fromkeys(key for _, key in known.values() if key is not None))
    lettered = len({key for key, _ in known.values()}) > 1
    found = {}
    for name, (ranked, read) in known.items():
        letter = "?" if ranked is None else _letter(candidates.index(ranked))
        number = str(features.index(read) + 1) if read is not None and len(features) > 1 else ""
        found[name] = f"{letter if lettered else ''}{number}"
    return found


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"{_letter(place // 26 - 1)}{_letter(place % 26)}"


def notes(judged: Mapping[str, Judged], labels: Mapping[str, str], queries: int) -> list[str]:
    found = []
    if any(label.rstrip("0123456789") for label in labels.values()):
        found.append("systems ranked different candidates (A, B, …; ? unknown): differences are not the rankers' alone")
    if any(label[-1:].isdigit() for label in labels.values()):
        found.append("systems read different sets of features (1, 2, …)")
    for name, system in judged.items():
        if system.answered is not None and system.answered < queries:
            found.append(f"{name} answers {system.answered} of {queries} queries; the others count 0")
    return found


def averaged(seeds: Mapping[str, Judged]) -> Judged:
    """One system trained with several seeds: the mean of their figures, query by query.

    A test over queries then asks about the training recipe, not about one draw of it. Raises InputError for seeds that
    were not judged on the same queries, qrels and split.
    """
    first = refuse_strangers(seeds)
    names = [name for name in first.per_query.columns if name != "qid"]
    together = pl.concat([system.per_query.select("qid", *names) for system in seeds.values()])
    means = together.group_by("qid", maintain_order=True).agg(pl.col(names).mean())
    candidates = {system.candidates for system in seeds.values()}
    features = {system.features for system in seeds.values()}
    return Judged(
        per_query=means,
        fingerprints=first.fingerprints,
        split=first.split,
        candidates=first.candidates if len(candidates) == 1 else None,
        features=first.features if len(features) == 1 else None,
        answered=first.answered if len(candidates) == 1 else None,
    )


def tags_of(judged: Judged) -> dict[str, str]:
    """What a tracked run must keep for its figures to be compared later; `judged_by` reads it back."""
    prints = judged.fingerprints
    known = {
        "cascade.split": judged.split,
        "cascade.qrels": prints.qrels,
        "cascade.judged_queries": prints.queries,
        "cascade.texts": prints.texts,
        "cascade.candidates": judged.candidates,
        "cascade.features": judged.features,
        "cascade.answered": None if judged.answered is None else str(judged.answered),
    }
    return {tag: value for tag, value in known.items() if value is not None}


def ranked_pairs(run: pl.DataFrame, qids: pl.Series) -> tuple[str, int]:
    """The fingerprint of the candidates that a RUN ranked for the queries `qids`, and how many of these it answers."""
    pairs = run.select(*PAIRS).join(qids.to_frame("qid"), on="qid", how="semi")
    return content_of(pairs), pairs["qid"].n_unique()


def judged_by(tags: Mapping[str, str], per_query: pl.DataFrame) -> Judged | None:
    """The system whose run has these `tags`; None for one that was tracked without them."""
    if not {"cascade.split", "cascade.qrels", "cascade.judged_queries"} <= set(tags):
        return None
    prints = Fingerprints(tags["cascade.qrels"], tags["cascade.judged_queries"], tags.get("cascade.texts"))
    answered = tags.get("cascade.answered")
    return Judged(
        per_query=per_query,
        fingerprints=prints,
        split=tags["cascade.split"],
        candidates=tags.get("cascade.candidates"),
        features=tags.get("cascade.features"),
        answered=None if answered is None else int(answered),
    )


def fingerprints_of(qrels: pl.DataFrame, queries: pl.DataFrame | None = None) -> Fingerprints:
    """What a system that is judged by `qrels` is judged on; `queries` (QUERIES) adds their text."""
    check(qrels, QRELS, "qrels")
    texts = None
    if queries is not None:
        texts = content_of(check(queries, QUERIES, "queries").select(*QUERIES).join(qrels, on="qid", how="semi"))
    return Fingerprints(content_of(qrels.select(*QRELS)), content_of(qrels.select("qid").unique()), texts)


def feature_set(names: Sequence[str]) -> str:
    """The fingerprint of the features that a system reads, whatever their order."""
    return content_of(pl.DataFrame({"feature": list(names)}, schema={"feature": pl.String}))


def content_of(frame: pl.DataFrame) -> str:
    """SHA-256 of the rows of `frame` (text and integers), whatever their order."""
    lines = frame.select(pl.concat_str(pl.all().cast(pl.String), separator="\x1f")).to_series().sort()
    return sha256("\x1e".join(lines).encode()).hexdigest()


def candidates_of(pairs: pl.DataFrame, known: dict[tuple[int, ...], str]) -> str:
    """The fingerprint of (qid, docid); `known` spares rankings of the same documents the sort, by two hashes' sums."""
    hashes = [pairs.select(pl.struct("qid", "docid").hash(seed).sum()).item() for seed in (0, 1)]
    key = (pairs.height, *hashes)
    if key not in known:
        known[key] = content_of(pairs)
    return known[key]
