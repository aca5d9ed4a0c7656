"""What a network's reasons are: each feature's part of a score, in the document and, by attention, in its rivals."""

import numpy as np
import polars as pl
import pytest
import torch

from rankers import networks
from rankers.neural import NetworkRanker
from rankers.normaliser import Normaliser
from tests.rankers.synthetic import FEATURES, judged

MLP = {"network": "mlp", "hidden": [16, 8], "dropout": 0.1}
ATTENTION = {"network": "attention", "width": 16, "heads": 2, "blocks": 2, "dropout": 0.1}
SHAPES = pytest.mark.parametrize("shape", [MLP, ATTENTION], ids=["mlp", "attention"])


def random_ranker(shape: dict, seed: int = 0) -> NetworkRanker:
    """A network of random weights: far more crooked than a trained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks.build(len(FEATURES), shape).eval()
        for weights in network.parameters():
            torch.nn.init.normal_(weights, std=0.4)
    rows = judged(20, seed=1).select(FEATURES).to_numpy()
    return NetworkRanker("softmax", "listwise", FEATURES, shape, Normaliser.fit(rows), network)


def ragged(queries: int, seed: int, most: int = 30) -> pl.DataFrame:
    """Slates of one to `most` documents."""
    frame = judged(queries, seed=seed, depth=most).drop("relevance")
    sizes = np.random.default_rng(seed).integers(1, most + 1, queries)
    cut = pl.DataFrame({"qid": frame["qid"].unique().sort(), "rows": sizes})
    inside = pl.int_range(pl.len()).over("qid") < pl.col("rows")
    return frame.join(cut, on="qid", maintain_order="left").filter(inside).drop("rows")


def by_jacobian(ranker: NetworkRanker, slate: pl.DataFrame, steps: int = 400) -> np.ndarray:
    """∫ Σ_j x_jf ∂s_i/∂x_jf dt [L, F] of a slate in canonical order, by the whole Jacobian at the midpoints."""
    z = torch.from_numpy(ranker.normaliser.transform(slate.select(FEATURES).to_numpy())).double()
    network = networks.build(len(FEATURES), ranker.hyperparameters).double().eval()
    network.load_state_dict(ranker.network.state_dict())
    mask = torch.ones(1, len(z), dtype=torch.bool)
    total = np.zeros((len(z), len(FEATURES)))
    for t in (np.arange(steps) + 0.5) / steps:
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None], mask)[0], z * t)  # [i, j, f]
        total += torch.einsum("ijf,jf->if", jacobian, z).numpy() / steps
    return total


@SHAPES
def test_contributions_are_the_path_integral_of_the_jacobian(shape):
    ranker = random_ranker(shape)
    slate = judged(1, seed=4, depth=6).sort("docid", descending=True)
    found = ranker.explain(slate)
    np.testing.assert_allclose(found[:, :-1], by_jacobian(ranker, slate), atol=2e-3)
    base = networks.build(len(FEATURES), shape).eval()
    base.load_state_dict(ranker.network.state_dict())
    nothing = base(torch.zeros(1, 6, len(FEATURES)), torch.ones(1, 6, dtype=torch.bool))[0].detach()
    np.testing.assert_allclose(found[:, -1], nothing, atol=1e-6)


@SHAPES
@pytest.mark.parametrize("seed", range(4))
def test_a_row_sums_to_its_score_whatever_the_weights(shape, seed):
    ranker, frame = random_ranker(shape, seed), ragged(12, seed)
    scores = ranker.score(frame)
    assert np.ptp(scores) > 1
    np.testing.assert_allclose(ranker.explain(frame).sum(axis=1), scores, atol=1e-3, rtol=1e-3)


@SHAPES
def test_reasons_do_not_depend_on_the_other_queries_of_the_frame(shape):
    ranker, frame = random_ranker(shape), ragged(8, 3).sort("qid", maintain_order=True)
    alone = np.concatenate([ranker.explain(query) for _, query in frame.group_by("qid", maintain_order=True)])
    np.testing.assert_allclose(ranker.explain(frame), alone, atol=1e-9)


def test_a_rivals_feature_is_a_reason_only_where_the_network_reads_the_slate():
    slate = judged(1, seed=4, depth=2)
    missing = slate.with_columns(overlap=pl.when(pl.int_range(pl.len()) == 0).then(float("nan")).otherwise("overlap"))
    column = FEATURES.index("overlap")
    without, among = (random_ranker(shape).explain(missing.cast({"overlap": pl.Float32})) for shape in (MLP, ATTENTION))
    assert without[0, column] == 0.0
    assert abs(among[0, column]) > 1e-3


def test_a_long_slate_is_explained_in_pieces_to_the_same(monkeypatch):
    ranker, slate = random_ranker(ATTENTION), judged(1, seed=6, depth=40)
    whole = ranker.explain(slate)
    monkeypatch.setattr("rankers.neural.PATH_CELLS", 5000)
    np.testing.assert_allclose(ranker.explain(slate), whole, atol=1e-5)
