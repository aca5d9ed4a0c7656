"""`cascade ltr` in MLflow: the evaluation with a run a ranker, and the one best on validation put forward."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import polars as pl

from pipeline import build
from pipeline.ltr_results import METRICS, Fitted, LtrResult
from pipeline.mainjob import Progress
from pipeline.reasons import reasons_of
from pipeline.tracking import Extras, Tracker


def track(result: LtrResult, test: pl.DataFrame, home: Path, progress: Progress) -> LtrResult:
    """Log `result`, register and promote as the registry's rule says; the result with what became of its ranker.

    The model of a ranker is that of its first seed, and so are the validation figures that decide on it. test: the
    judged FEATURES that its scores are explained on.
    """
    tracker = Tracker(home)
    extras = {}
    for done, (name, fits) in enumerate(result.fits.items()):
        progress("track", done, len(result.fits))
        extras[name] = _extras(fits[0], test, result)
    runs = tracker.log_evaluation(
        result.evaluation, dataset=result.dataset, fingerprint=result.fingerprint, extras=extras
    )
    promotion = tracker.promote_run(
        runs.systems[result.selected],
        dataset=result.dataset,
        fingerprint=result.fingerprint,
        blank=result.evaluation.blank,
        metric=METRICS[0],
    )
    progress("track", len(result.fits), len(result.fits))
    return replace(result, promotion=promotion)


def _extras(fit: Fitted, test: pl.DataFrame, result: LtrResult) -> Extras:
    fits = result.fits[fit.name]
    costs = {
        "train_s": fmean(f.train_s for f in fits),
        "predict_us_per_doc": fmean(f.predict_us_per_doc for f in fits),
    }
    return Extras(
        key=fit.key,
        ranker=fit.ranker,
        params={**fit.settings, "seeds": len(fits)},
        seed=fit.seed,
        metrics=costs,
        valid=result.valid[fit.name],
        curve=fit.curve(),
        reasons=reasons_of(build.load_ranker(fit.ranker), test.drop("relevance")),
    )
