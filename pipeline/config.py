"""The settings of the main job, checked once, in one place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from rankers.catalogue import BLEND, canonical
from retrieval.checkpoint import DEFAULT_ENCODER
from retrieval.errors import InputError

RANKERS = ("pointwise", "ranknet", "lambdamart")
"""What the main job trains by default: one ranker a family."""


@dataclass(frozen=True)
class Settings:
    """How the main job retrieves and ranks.

    language: of the analysis (stopwords and Snowball stemming), or "none".
    k1, b: BM25's term-frequency saturation and length normalisation.
    encoder: `all-MiniLM-L6-v2` (packaged), a local folder or a hub id.
    depth: documents that each retrieval stage returns a query; candidates: those the rankers see, best fused first.
    rankers: the learned rankers to train, by their names in `rankers.catalogue`.
    folds: 0, or the number of by-query cross-validation folds for a data set without a train split.
    seed: of everything random.
    """

    language: str = "english"
    k1: float = 1.2
    b: float = 0.75
    encoder: str = DEFAULT_ENCODER
    depth: int = 1000
    candidates: int = 100
    rankers: tuple[str, ...] = RANKERS
    folds: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("depth", 1), ("candidates", 1), ("folds", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}; found {getattr(self, name)}")
        if self.folds == 1:
            raise InputError("folds must be 0 (no cross-validation) or at least 2; found 1")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise InputError(f"BM25 needs k1 ≥ 0 and 0 ≤ b ≤ 1; found k1 {self.k1}, b {self.b}")
        if self.depth < self.candidates:
            raise InputError(f"depth ({self.depth}) must be at least candidates ({self.candidates})")
        for name in self.rankers:
            if canonical(name) == BLEND:
                raise InputError("the main job trains single rankers; a blend is made by `cascade ltr`")
        if len(set(self.rankers)) < len(self.rankers):
            raise InputError(f"a ranker is named twice: {', '.join(self.rankers)}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a mapping; InputError for a key that is none."""
        known = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise InputError(f"unknown setting {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
