"""Judged candidates of the shape that first-stage retrieval makes: a few dozen a query, one or two of them relevant.

Latent relevance is linear in two features, with an interaction and noise; the rest is noise, one feature is missing
now and then, and one never varies.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

FEATURES = ("bm25", "dense", "overlap", "length", "constant", "noise_1", "noise_2", "noise_3")


def judged(queries: int, *, seed: int, depth: int = 30) -> pl.DataFrame:
    """A judged FEATURES frame of `queries` slates of `depth` rows, in shuffled order."""
    rng = np.random.default_rng(seed)
    n = queries * depth
    bm25, dense, overlap = rng.gamma(4.0, 3.0, n), rng.normal(0.4, 0.15, n), rng.uniform(0, 1, n)
    latent = (bm25 - 12) / 6 + (dense - 0.4) / 0.15 + 2.5 * (overlap > 0.6) * (dense > 0.4) + rng.normal(0, 0.5, n)
    place = (-latent.reshape(queries, depth)).argsort(axis=1).argsort(axis=1).ravel()
    columns: Mapping[str, np.ndarray] = {
        "bm25": bm25,
        "dense": np.where(rng.uniform(size=n) < 0.1, np.nan, dense),
        "overlap": overlap,
        "length": rng.lognormal(5, 1, n),
        "constant": np.ones(n),
        **{f"noise_{i}": rng.normal(size=n) for i in (1, 2, 3)},
    }
    frame = pl.DataFrame(
        {
            "qid": np.repeat([f"q{seed}-{i}" for i in range(queries)], depth),
            "docid": [f"d{i}" for i in rng.permutation(n)],
            "relevance": np.select([place == 0, place == 1], [2, 1], 0).astype(np.int32),
        }
    ).with_columns(**{name: pl.Series(values.astype(np.float32)) for name, values in columns.items()})
    return frame[rng.permutation(n)]


def ndcg(frame: pl.DataFrame, scores: np.ndarray, k: int = 10) -> float:
    """NDCG by the definition, query by query: gain 2^grade - 1, ties by docid descending. The oracle of tests."""
    total, queries = 0.0, 0
    for _, rows in frame.with_columns(score=pl.Series(scores, dtype=pl.Float32)).group_by("qid"):
        ranked = sorted(rows.select("score", "docid", "relevance").rows(), reverse=True)
        best = sorted((row[2] for row in ranked), reverse=True)
        ideal = sum((2**grade - 1) / np.log2(place + 2) for place, grade in enumerate(best[:k]))
        if ideal > 0:
            queries += 1
            total += sum((2 ** row[2] - 1) / np.log2(place + 2) for place, row in enumerate(ranked[:k])) / ideal
    return total / queries
