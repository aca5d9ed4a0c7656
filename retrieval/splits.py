"""Splitting by query: which judgements train, validate and test, so that nothing learned leaks into what is judged.

Every choice here hashes content (BLAKE2b), so it depends on neither row order, PYTHONHASHSEED nor the machine.
"""

import logging
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import polars as pl

from retrieval.errors import InputError

log = logging.getLogger(__name__)

SEED = 0
VALID_SHARE = 0.2
ALIASES: Mapping[str, str] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}


class _Separators(dict[int, str]):
    """A table for str.translate: punctuation, symbols and controls become a space, all else stays as it is."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = " " if unicodedata.category(character)[0] in "PSZC" else character
        return self[code]


_SEPARATORS = _Separators()


def normalised(text: str) -> str:
    """`text` for comparing only: NFKC, case-folded, its words separated by single spaces, without punctuation.

    A text of punctuation alone is kept as it is: two of them are not the same question.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_SEPARATORS).split()) or folded.strip()


def unit_hash(key: str, seed: int = SEED) -> float:
    """A number in [0, 1) that depends on `key` and `seed` alone, evenly spread over keys."""
    digest = blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def resolve(qrels: Mapping[str, pl.DataFrame], where: str) -> tuple[dict[str, pl.DataFrame], str]:
    """Give each split its role: (QRELS by `train`, `valid`, `test`; the original name of the one judged as `test`).

    `dev`, `val` and `validation` mean `valid`. Without a test split the validation split is what is judged: it becomes
    `test`. A query that two splits share stays in the one judged latest (test, then valid), with a warning.

    Raises InputError naming `where` for an unknown name, two validation splits, or nothing to judge on.
    """
    original: dict[str, str] = {}
    for name in qrels:
        if name not in ALIASES:
            raise InputError(f"{where}: unknown split {name!r}; splits are named {', '.join(ALIASES)}")
        role = ALIASES[name]
        if role in original:
            raise InputError(f"{where}: {original[role]!r} and {name!r} are both the {role} split; keep one of them")
        original[role] = name
    if "test" not in original:
        if "valid" not in original:
            found = ", ".join(qrels) or "none"
            raise InputError(f"{where}: nothing to judge on: needs a test or dev split; found {found}")
        original["test"] = original.pop("valid")
    roles: dict[str, pl.DataFrame] = {
        role: qrels[original[role]] for role in ("train", "valid", "test") if role in original
    }
    return _kept_apart(roles, where), original["test"]


def _kept_apart(qrels: dict[str, pl.DataFrame], where: str) -> dict[str, pl.DataFrame]:
    apart: dict[str, pl.DataFrame] = {}
    for role in reversed(qrels):
        frame = qrels[role]
        for later in apart.values():
            shared = frame.join(later, on="qid", how="semi")["qid"].n_unique()
            if shared:
                log.warning("%s: dropped from %s %d queries that a later split judges too", where, role, shared)
                frame = frame.join(later, on="qid", how="anti")
        apart[role] = frame
    return {role: apart[role] for role in qrels}


def cut_validation(
    train: pl.DataFrame, queries: pl.DataFrame, *, share: float = VALID_SHARE, seed: int = SEED
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cut `share` of the queries of `train` (QRELS) off: (what stays train, the new validation split), both QRELS.

    Queries of the same normalised text, and queries that share a relevant document, stay on the same side, through
    chains: a ranker that has learned a document by heart would pass the validation that ought to catch it. Where the
    documents tie so many queries together that the share cannot be cut so, the texts alone decide, with a warning. The
    cut takes whole groups in the order of their hash, never all of them: with but one group, validation is empty.
    """
    judged = queries.join(train, on="qid", how="semi").select("qid", "query").sort("qid")
    texts: dict[str, list[str]] = {qid: [f"text {normalised(query)}"] for qid, query in judged.iter_rows()}
    relevant = train.filter(pl.col("relevance") > 0).select("qid", "docid")
    ties = {qid: list(keys) for qid, keys in texts.items()}
    for qid, docid in relevant.filter(pl.col("qid").is_in(judged["qid"].to_list())).iter_rows():
        ties[qid].append(f"document {docid}")
    cut = _cut(_tied(ties), share, seed)
    apart = _cut(_tied(texts), share, seed)
    if len(cut) < len(apart) / 2:
        log.warning("the train queries share too many relevant documents: validation is cut by query text alone")
        cut = apart
    chosen = pl.DataFrame({"qid": cut}, schema={"qid": pl.String})
    return train.join(chosen, on="qid", how="anti"), train.join(chosen, on="qid", how="semi")


def _tied(keys: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The members of `keys` in groups: those that share a key, and so on through chains."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for member, mine in keys.items():
        for key in mine:
            parent[root(("key", key))] = root(("member", member))
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for member in keys:
        groups[root(("member", member))].append(member)
    return list(groups.values())


def _cut(groups: Sequence[Sequence[str]], share: float, seed: int) -> list[str]:
    """Members of whole groups, about `share` of all; a group too large to fit is passed over."""
    wanted = share * sum(map(len, groups))
    cut: list[str] = []
    for group in sorted(groups, key=lambda group: (unit_hash(group[0], seed), group[0]))[:-1]:
        if len(cut) >= wanted:
            break
        if len(cut) + len(group) <= max(1.5 * wanted, 1):
            cut += group
    return cut


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """A group for each of `texts`: those whose token sets have a Jaccard similarity ≥ `threshold` share one, and so on
    through chains. The group's number is the index of its first member.

    An exact join by prefix filtering (Chaudhuri et al., 2006; Bayardo et al., 2007): with the tokens of all sets in one
    order, rarest first, two sets of similarity t share a token within their first |x| − ⌈t|x|⌉ + 1.
    """
    sets = [frozenset(normalised(text).split()) for text in texts]
    rarity = Counter(token for tokens in sets for token in tokens)
    parent = list(range(len(sets)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_of: dict[frozenset[str], int] = {}
    by_prefix: dict[str, list[int]] = defaultdict(list)
    for index, tokens in enumerate(sets):
        if tokens in first_of:
            parent[index] = root(first_of[tokens])
            continue
        first_of[tokens] = index
        ordered = sorted(tokens, key=lambda token: (rarity[token], token))
        # The margin keeps the bound safe where threshold × size is an integer that floating point overshoots.
        prefix = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
        for other in {other for token in prefix for other in by_prefix[token]}:
            shared = len(tokens & sets[other])
            if shared >= threshold * (len(tokens) + len(sets[other]) - shared) - 1e-9:
                low, high = sorted((root(index), root(other)))
                parent[high] = low
        for token in prefix:
            by_prefix[token].append(index)
    return [root(index) for index in range(len(sets))]


def assign(groups: Iterable[str], shares: Mapping[str, float], seed: int = SEED) -> list[str]:
    """The split of each of `groups` (a group's key), by its hash, in proportion to `shares` (which sum to 1)."""
    names = list(shares)
    bounds = [sum(list(shares.values())[: end + 1]) for end in range(len(names))]
    return [
        next((name for name, bound in zip(names, bounds, strict=True) if unit_hash(key, seed) < bound), names[-1])
        for key in groups
    ]
