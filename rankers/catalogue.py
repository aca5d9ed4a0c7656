"""Every ranker by name: its family, what it is made of, and what it minimises. Light: imports no learning library."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

from rankers.protocol import Family
from retrieval.errors import InputError

Kind: TypeAlias = Literal["trees", "network", "blend"]

ATTENTION = "+attention"
"""Ends the name of a ranker whose network reads the whole slate."""


@dataclass(frozen=True)
class Entry:
    """A ranker's family, the kind of model that it trains, and its loss in words."""

    family: Family
    kind: Kind
    about: str


TREES: Mapping[str, Entry] = {
    "regression": Entry("pointwise", "trees", "squared error of the grade"),
    "logistic": Entry("pointwise", "trees", "log loss of the grade, binarised at a threshold"),
    "lambdamart": Entry("listwise", "trees", "LambdaMART: pairwise gradients weighted by |ΔNDCG| (Burges 2010)"),
    "xendcg": Entry("listwise", "trees", "cross-entropy bound on NDCG (Bruch 2021)"),
}
NETWORKS: Mapping[str, Entry] = {
    "ordinal": Entry("pointwise", "network", "cumulative logits of the grade (McCullagh 1980)"),
    "ranknet": Entry("pairwise", "network", "pairwise logistic loss (Burges 2005)"),
    "lambdarank_net": Entry("pairwise", "network", "RankNet's pairs weighted by |ΔNDCG| (Burges 2006)"),
    "hinge": Entry("pairwise", "network", "pairwise hinge (Joachims 2002)"),
    "listnet": Entry("listwise", "network", "cross-entropy of top-one distributions (Cao 2007)"),
    "listmle": Entry("listwise", "network", "Plackett-Luce likelihood of the ranking (Xia 2008)"),
    "softmax": Entry("listwise", "network", "softmax cross-entropy (Bruch 2019)"),
    "approx_ndcg": Entry("listwise", "network", "NDCG with smooth ranks (Qin 2010)"),
    "neural_ndcg": Entry("listwise", "network", "NDCG of a relaxed sort (Pobrotyn 2021)"),
    "lambda_loss": Entry("listwise", "network", "LambdaLoss, NDCG-Loss2++ (Wang 2018)"),
}
BLEND = "blend"
RANKERS: Mapping[str, Entry] = {
    **TREES,
    **NETWORKS,
    **{f"{name}{ATTENTION}": entry for name, entry in NETWORKS.items()},
    BLEND: Entry("listwise", "blend", "an average of the others, its weights fitted on validation"),
}
ALIASES: Mapping[str, str] = {"pointwise": "regression"}
"""Other names for the same ranker."""


def canonical(name: str) -> str:
    """The catalogue's name for `name`. Raises InputError that lists the names for one that is not there."""
    found = ALIASES.get(name, name)
    if found in RANKERS:
        return found
    near = get_close_matches(name, RANKERS, n=1)
    raise InputError(
        f"unknown ranker {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(TREES)}, "
        f"{', '.join(NETWORKS)} (each network also with {ATTENTION}) and {BLEND}"
    )
