"""The training loop: it goes on where it was killed, repeats itself to the bit, and says what it cannot do."""

import hashlib
import logging

import numpy as np
import polars as pl
import pytest
import torch

from rankers.catalogue import NETWORKS
from rankers.neural import NetworkRanker
from rankers.training import fit_network, loss_options, shuffled
from retrieval.errors import InputError
from tests.rankers.synthetic import FEATURES, judged

TRAIN, VALID = judged(40, seed=1, depth=12), judged(20, seed=2, depth=12)
EPOCHS = 6


class Killed(Exception):
    pass


def train(name: str, log=lambda metrics, step: None, **options) -> NetworkRanker:
    shared = {"feature_names": FEATURES, "epochs": EPOCHS, "patience": EPOCHS, "seed": 5, "batch_queries": 8}
    frames = {"train": TRAIN, "valid": VALID}
    return fit_network(name, **{**frames, **shared, **options}, log=log)


def curve_of(name: str, **options) -> tuple[NetworkRanker, list]:
    curve = []
    ranker = train(name, lambda metrics, step: curve.append((step, dict(metrics))), **options)
    return ranker, curve


def killed_after(name: str, epoch: int, **options) -> None:
    def log(metrics, step):
        if step > epoch:
            raise Killed

    with pytest.raises(Killed):
        train(name, log, **options)


def assert_same(one: NetworkRanker, other: NetworkRanker) -> None:
    assert one.hyperparameters == other.hyperparameters
    for (name, mine), (_, theirs) in zip(
        one.network.state_dict().items(), other.network.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("killed", [1, 4])
@pytest.mark.parametrize("name", ["ranknet", "softmax+attention", "ordinal", "listmle"])
def test_a_killed_run_goes_on_to_the_very_same_ranker(name, killed, tmp_path):
    """ordinal's loss has parameters of its own, listmle draws random numbers, attention drops out at random."""
    whole, curve = curve_of(name)
    killed_after(name, killed, checkpoint=tmp_path / "deep" / "c")
    steps = []
    torch.manual_seed(99)  # another process has another random state
    resumed, again = curve_of(name, checkpoint=tmp_path / "deep" / "c")
    assert again == curve
    assert_same(resumed, whole)
    # What was kept is not trained again: taken up once more, the finished run takes no step.
    train(name, lambda metrics, step: steps.append(step), checkpoint=tmp_path / "deep" / "c")
    assert steps == list(range(1, EPOCHS + 1))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c"]


def test_an_epoch_that_was_kept_is_not_trained_again(tmp_path):
    killed_after("softmax", 3, checkpoint=tmp_path / "c")
    poisoned = torch.nn.Linear.forward
    calls = []

    def counted(self, x):
        calls.append(self.training)
        return poisoned(self, x)

    def steps_of(**options) -> int:
        calls.clear()
        train("softmax", **options)
        return sum(calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", counted)
        whole, rest = steps_of(), steps_of(checkpoint=tmp_path / "c")
    assert rest == pytest.approx(whole * (EPOCHS - 3) / EPOCHS)


@pytest.mark.parametrize("damage", [b"", b"\x08", b"not a checkpoint at all, of some length"])
def test_a_torn_checkpoint_is_not_taken_up(damage, tmp_path, caplog):
    whole, curve = curve_of("ranknet")
    path = tmp_path / "c"
    if damage == b"\x08":
        killed_after("ranknet", 3, checkpoint=path)
        damage = path.read_bytes()[:-100]
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        ranker, again = curve_of("ranknet", checkpoint=path)
    assert "is no whole checkpoint" in caplog.text
    assert again == curve
    assert_same(ranker, whole)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 6},
        {"learning_rate": 1e-3},
        {"hidden": (8,)},
        {"loss_options": {"sigma": 2.0}},
        {"train": judged(40, seed=3, depth=12)},
        {"valid": judged(20, seed=4, depth=12)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpoint_of_other_settings_or_data_is_not_taken_up(other, tmp_path, caplog):
    killed_after("ranknet", 4, checkpoint=tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        ranker, curve = curve_of("ranknet", checkpoint=tmp_path / "c", **other)
    assert "is of other data or settings: training begins anew" in caplog.text
    fresh, expected = curve_of("ranknet", **other)
    assert curve == expected
    assert_same(ranker, fresh)


def test_more_epochs_go_on_from_where_fewer_ended(tmp_path):
    _, whole = curve_of("softmax", epochs=8, patience=8)
    train("softmax", epochs=5, patience=8, checkpoint=tmp_path / "c")
    _, longer = curve_of("softmax", epochs=8, patience=8, checkpoint=tmp_path / "c")
    assert longer == whole


@pytest.mark.parametrize(
    "name", ["hinge", "ordinal", "listmle", "neural_ndcg", "lambda_loss+attention", "listnet+attention"]
)
def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_rows(name, tmp_path):
    first, again = train(name, epochs=2), train(name, epochs=2, train=TRAIN.reverse(), valid=VALID.reverse())
    other = train(name, epochs=2, seed=6)
    sums = []
    for place, ranker in (("first", first), ("again", again), ("other", other)):
        ranker.save(tmp_path / place)
        files = sorted((tmp_path / place).iterdir())
        sums.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert sums[0] == sums[1]
    assert sums[0][0] != sums[2][0]


@pytest.mark.parametrize("name", ["softmax", "ranknet+attention"])
def test_divergence_is_one_clear_error(name):
    with pytest.raises(InputError, match=r"training diverged in epoch \d+: .*try a lower learning_rate"):
        train(name, learning_rate=1e30, epochs=20, patience=20)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_option_that_the_loss_has_not_is_refused(name):
    with pytest.raises(InputError, match=f"{name}: unknown loss option 'sigmaa'; known: "):
        train(name, loss_options={"sigmaa": 1.0})


def test_each_option_of_a_loss_changes_what_is_learned():
    values = {"weighting": "delta_ndcg", "sigma": 2.0, "margin": 0.001, "gain": "linear", "temperature": 0.2}
    values |= {"position_aware": True, "shuffle_ties": False, "sinkhorn": 1, "mu": 0.5, "k": 1}
    for name in NETWORKS:
        plain = train(name, epochs=2)
        for option in loss_options(name):
            if (name, option) in {("ranknet", "gain"), ("hinge", "gain")}:
                continue  # counts where pairs are weighted
            other = train(name, epochs=2, loss_options={option: values[option]})
            assert other.hyperparameters[option] == values[option]
            assert not np.array_equal(other.score(VALID), plain.score(VALID)), (name, option)
    assert loss_options("lambdarank_net") == ["sigma", "gain"]


def test_unknown_rankers_devices_and_normalisations_are_refused():
    with pytest.raises(InputError, match="unknown ranker 'softmaxx'; did you mean 'softmax'"):
        train("softmaxx")
    with pytest.raises(InputError, match="unknown device 'gpu'; known: auto, cpu, cuda, cuda:N"):
        train("softmax", device="gpu")
    with pytest.raises(InputError, match="unknown normalisation 'rank'; known: auto, zscore, log, quantile"):
        train("softmax", normalisation="rank")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda': this machine shows no CUDA GPU"):
            train("softmax", device="cuda")


def test_stops_after_patience_epochs_without_a_better_one():
    ranker, curve = curve_of("softmax", epochs=60, patience=3)
    judged_as = [metrics["valid_ndcg_exp_cut_10"] for _, metrics in curve]
    best = int(np.argmax(judged_as)) + 1
    assert ranker.hyperparameters["epochs"] == best
    assert len(curve) == best + 3 < 60


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ordinal"] + ["softmax+attention"])
def test_soft_labels_teach_the_order_that_grades_do(name):
    soft = [frame.with_columns(relevance=(pl.col("relevance") / 3).cast(pl.Float32)) for frame in (TRAIN, VALID)]
    ranker = train(name, train=soft[0], valid=soft[1], soft=True, epochs=12, patience=12)
    scores = VALID.select("relevance", score=pl.Series(ranker.score(VALID)))
    relevant, other = (scores.filter((pl.col("relevance") > 0) == there)["score"] for there in (True, False))
    assert relevant.mean() > other.mean() + 0.5 * other.std()


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_an_epoch_shows_each_slate_once_in_a_fresh_order_with_little_padding(batch):
    rng = np.random.default_rng(0)
    sizes = torch.from_numpy(rng.integers(1, 120, 300))
    rows = torch.arange(1, int(sizes.sum()) + 1, dtype=torch.float32)[:, None]
    starts = (sizes.cumsum(0) - sizes).tolist()
    slates = [tuple(range(start + 1, start + 1 + n)) for start, n in zip(starts, sizes.tolist(), strict=True)]
    orders, cells = [], 0
    for _ in range(2):
        seen = []
        for x, relevance, mask in shuffled((rows, rows[:, 0] * 10, sizes), batch):
            assert len(x) <= batch
            assert not x[~mask].any()
            assert not relevance[~mask].any()
            torch.testing.assert_close(relevance, x[:, :, 0] * 10)
            seen += [tuple(slate[there].ravel().int().tolist()) for slate, there in zip(x, mask, strict=True)]
            cells += mask.numel()
        assert sorted(seen) == slates
        orders.append(seen)
    assert orders[0] != orders[1]
    assert cells / 2 <= 1.35 * int(sizes.sum())  # at random, batches of 16 would be twice the rows
