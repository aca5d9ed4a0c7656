"""Networks look at a slate as a set: order and padding are not there."""

import pytest
import torch
from torch import nn

from rankers import networks
from retrieval.errors import InputError

MLP = {"network": "mlp", "hidden": [16, 8], "dropout": 0.1}
ATTENTION = {"network": "attention", "width": 16, "heads": 4, "blocks": 2, "dropout": 0.1}
SHAPES = pytest.mark.parametrize("shape", [MLP, ATTENTION], ids=["mlp", "attention"])
FEATURES = 5


def network_of(shape: dict) -> nn.Module:
    """One that has learned something: fresh ones score everything alike."""
    network = networks.build(FEATURES, shape).eval()
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.5)
    return network


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def slates(*sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, mask = networks.padded(torch.randn(sum(sizes), FEATURES), torch.tensor(sizes))
    assert mask.sum(dim=1).tolist() == list(sizes)
    return x, mask


@SHAPES
@torch.no_grad()
def test_permuting_a_slate_permutes_its_scores(shape):
    network = network_of(shape)
    x, mask = slates(9, 9)
    order = torch.randperm(9)
    scores = network(x, mask)
    assert scores.std() > 0.1
    torch.testing.assert_close(network(x[:, order], mask), scores[:, order], atol=1e-5, rtol=0)


@SHAPES
@torch.no_grad()
def test_padding_changes_nothing_and_scores_zero(shape):
    network = network_of(shape)
    x, mask = slates(4, 9, 1)
    scores = network(x, mask)
    assert not scores[~mask].any()
    for row, size in enumerate((4, 9, 1)):
        alone = network(x[row : row + 1, :size], torch.ones(1, size, dtype=torch.bool))
        torch.testing.assert_close(scores[row, :size], alone[0], atol=1e-5, rtol=0)
    for filled in (1e3, -1e3):
        other = torch.where(mask[:, :, None], x, torch.tensor(filled))
        torch.testing.assert_close(network(other, mask), scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_attention_scores_a_document_among_its_rivals_and_an_mlp_by_itself():
    x, mask = slates(6)
    other = x.clone()
    other[0, 5] += 1.0
    moved = {
        shape["network"]: (n(other, mask) - n(x, mask))[0, :5].abs().max()
        for shape in (MLP, ATTENTION)
        for n in [network_of(shape)]
    }
    assert moved["mlp"] == 0
    assert moved["attention"] > 1e-3


@torch.no_grad()
def test_attention_in_plain_products_is_the_same_function():
    network = network_of(ATTENTION)
    plain = networks.in_plain_products(network)
    for sizes in ((7,), (3, 8, 1)):
        x, mask = slates(*sizes)
        torch.testing.assert_close(plain(x, mask), network(x, mask), atol=1e-5, rtol=0)


@SHAPES
@torch.no_grad()
def test_training_sets_out_from_a_score_that_says_nothing(shape):
    x, mask = slates(5, 3)
    assert not networks.build(FEATURES, shape).eval()(x, mask).any()


def test_blocks_do_not_share_their_weights():
    network = networks.build(FEATURES, ATTENTION)
    assert len({weights.data_ptr() for weights in network.parameters()}) == len(list(network.parameters()))


def test_widths_that_heads_do_not_divide_are_refused():
    with pytest.raises(InputError, match=r"attention: width \(30\) must be a multiple of heads \(4\)"):
        networks.build(FEATURES, {**ATTENTION, "width": 30})


@pytest.mark.parametrize(
    "wrong",
    [{}, {"network": "rnn"}, {"network": "mlp", "hidden": 16, "dropout": 0.1}, {**ATTENTION, "heads": "4"}],
)
def test_what_describes_no_network_is_refused(wrong):
    with pytest.raises(InputError, match=r"no network is described by .*known: mlp .*attention"):
        networks.build(FEATURES, wrong)
