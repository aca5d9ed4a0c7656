"""Every feature by name. The order here is the order of the columns."""

from collections.abc import Callable
from dataclasses import dataclass

from features import alone, lexical, proximity, stages, within
from features.pairs import Field, Pairs
from features.segments import Values


@dataclass(frozen=True)
class Feature:
    """compute: Pairs → float64 [pairs]; about: one line."""

    compute: Callable[[Pairs], Values]
    about: str


def _summary(function: Callable[..., Values]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def of_pair(function: Callable[[Pairs], Values]) -> Feature:
    return Feature(function, _summary(function))


def of_title(function: Callable[[Field], Values]) -> Feature:
    return Feature(lambda pairs: function(pairs.title), f"Title. {_summary(function)}")


def of_text(function: Callable[[Field], Values]) -> Feature:
    return Feature(lambda pairs: function(pairs.text), f"Text. {_summary(function)}")


def of_whole(function: Callable[[Field], Values]) -> Feature:
    return Feature(lambda pairs: function(pairs.whole), f"Title and text. {_summary(function)}")


def of_stage(stage: str, function: Callable[[Pairs, str], Values]) -> Feature:
    return Feature(lambda pairs: function(pairs, stage), f"Stage {stage}. {_summary(function)}")


FEATURES: dict[str, Feature] = {
    # Words: how many of the query's, how rare, how often.
    "bm25_title": of_title(lexical.bm25),
    "bm25_text": of_text(lexical.bm25),
    "bm25_whole": of_whole(lexical.bm25),
    "tf_idf_whole": of_whole(lexical.tf_idf),
    "likelihood_title": of_title(lexical.likelihood),
    "likelihood_whole": of_whole(lexical.likelihood),
    "overlap_title": of_title(lexical.overlap),
    "overlap_text": of_text(lexical.overlap),
    "overlap_whole": of_whole(lexical.overlap),
    "coverage_title": of_title(lexical.coverage),
    "coverage_text": of_text(lexical.coverage),
    "coverage_whole": of_whole(lexical.coverage),
    "idf_coverage_title": of_title(lexical.idf_coverage),
    "idf_coverage_text": of_text(lexical.idf_coverage),
    "idf_coverage_whole": of_whole(lexical.idf_coverage),
    "rarest_matched_title": of_title(lexical.rarest_matched),
    "rarest_matched_whole": of_whole(lexical.rarest_matched),
    "missed_idf_whole": of_whole(lexical.missed_idf),
    "idf_sum_whole": of_whole(lexical.idf_sum),
    "idf_min_whole": of_whole(lexical.idf_min),
    "idf_max_whole": of_whole(lexical.idf_max),
    "idf_mean_whole": of_whole(lexical.idf_mean),
    "tf_sum_whole": of_whole(lexical.tf_sum),
    "tf_min_whole": of_whole(lexical.tf_min),
    "tf_max_whole": of_whole(lexical.tf_max),
    "density_title": of_title(lexical.density),
    "density_text": of_text(lexical.density),
    # Order and nearness.
    "longest_phrase_title": of_title(proximity.longest_phrase),
    "longest_phrase_whole": of_whole(proximity.longest_phrase),
    "bigrams_title": of_title(proximity.bigrams),
    "bigrams_whole": of_whole(proximity.bigrams),
    "closeness_whole": of_whole(proximity.closeness),
    "term_proximity_whole": of_whole(proximity.term_proximity),
    "earliness_text": of_text(proximity.earliness),
    # The query alone, the document alone.
    "query_length": of_pair(alone.query_length),
    "query_idf_sum": of_pair(alone.query_idf_sum),
    "query_idf_mean": of_pair(alone.query_idf_mean),
    "query_idf_max": of_pair(alone.query_idf_max),
    "query_unknown_share": of_pair(alone.query_unknown_share),
    "title_length": of_pair(alone.title_length),
    "text_length": of_pair(alone.text_length),
    "distinct_share": of_pair(alone.distinct_share),
    "specificity": of_pair(alone.specificity),
    "centrality": of_pair(alone.centrality),
    # Meaning, and scores compared within the query's candidates.
    "cosine": of_pair(within.cosine),
    "cosine_minmax": of_pair(within.cosine_minmax),
    "cosine_zscore": of_pair(within.cosine_zscore),
    "cosine_below_top": of_pair(within.cosine_below_top),
    "bm25_minmax": of_pair(within.bm25_minmax),
    "bm25_zscore": of_pair(within.bm25_zscore),
    "bm25_of_top": of_pair(within.bm25_of_top),
    "weaker_signal": of_pair(within.weaker_signal),
    "stronger_signal": of_pair(within.stronger_signal),
    "mean_signal": of_pair(within.mean_signal),
    "both_signals": of_pair(within.both_signals),
    "feedback": of_pair(within.feedback),
    # The earlier stages.
    "bm25_stage_score": of_stage("bm25", stages.stage_score),
    "bm25_stage_reciprocal_rank": of_stage("bm25", stages.stage_reciprocal_rank),
    "bm25_stage_below_top": of_stage("bm25", stages.stage_below_top),
    "dense_stage_score": of_stage("dense", stages.stage_score),
    "dense_stage_reciprocal_rank": of_stage("dense", stages.stage_reciprocal_rank),
    "dense_stage_below_top": of_stage("dense", stages.stage_below_top),
    "fused_stage_score": of_stage("fused", stages.stage_score),
    "fused_stage_reciprocal_rank": of_stage("fused", stages.stage_reciprocal_rank),
    "fused_stage_below_top": of_stage("fused", stages.stage_below_top),
    "stages_found": of_pair(stages.stages_found),
}


def describe() -> list[tuple[str, str]]:
    """(name, one line about it) of every feature, in the order of the columns."""
    return [(name, feature.about) for name, feature in FEATURES.items()]
