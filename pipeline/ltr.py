"""Learning to rank on LETOR files: rankers × seeds trained on train, stopped and blended on validation, judged on test.

Every fit is a stage of the cache, keyed by the files' content, the settings and the code: a run that was killed goes on
where it was, and one more ranker costs that ranker alone.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline import build
from pipeline.learn import Curve
from pipeline.ltr_results import Fitted, LtrResult
from pipeline.ltr_settings import BLENDED, defaults
from pipeline.mainjob import Progress, code_of, versions
from pipeline.stages import Stages
from rankers.artifact import Setting
from rankers.catalogue import BLEND, RANKERS, canonical
from rankers.protocol import Ranker
from retrieval.errors import CascadeError, InputError
from retrieval.frames import QRELS
from retrieval.letor import check_splits, read_letor
from retrieval.metrics import Blank

if TYPE_CHECKING:
    from rankers.blend import BlendMethod

log = logging.getLogger(__name__)

BAGS = 3
"""Fits of each member in a blend: its seed's, and two of far-off seeds."""
BAG_STRIDE = 1000
CODE = (
    *code_of("rankers"),
    "pipeline/ltr.py",
    "pipeline/ltr_settings.py",
    "pipeline/build.py",
    "retrieval/letor.py",
    "retrieval/letor_rows.py",
)
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Files:
    """The LETOR files of each split."""

    train: Sequence[Path]
    valid: Sequence[Path]
    test: Sequence[Path]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the files hold, split by split, whatever they are called."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for path in getattr(self, split):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            digest.update(split.encode())
        return digest.hexdigest()

    def read(self, progress: Progress) -> dict[str, pl.DataFrame]:
        """Judged FEATURES by split, all with the same features. Raises InputError as `retrieval.letor` does."""
        frames = {}
        for split in SPLITS:
            frames[split] = read_letor(getattr(self, split), progress=_reporting(progress, split))
        return check_splits(frames)


def ltr(
    files: Files,
    rankers: Sequence[str],
    *,
    home: Path,
    seeds: int = 3,
    settings: Mapping[str, Mapping[str, Setting]] | None = None,
    blended: Sequence[str] = BLENDED,
    blend_method: "BlendMethod" = "rank",
    dataset: str | None = None,
    blank: Blank = "one",
    track: bool = True,
    progress: Progress,
) -> LtrResult:
    """Train and judge `rankers` (names of `rankers.catalogue`), each with the seeds 0 to `seeds` - 1.

    settings: ranker → settings over the defaults (`pipeline.ltr_settings`). blended, blend_method: the members of the
    ranker `blend`, each fitted BAGS times, and how they are averaged (`rankers.blend`). blank: what a query with
    nothing relevant counts in intervals and tests; means are given under every policy. track: keep it all in MLflow,
    where the ranker that is best on validation is put forward as champion; where that fails a warning says why.

    Raises InputError for bad files, names, settings and seeds.
    """
    names = _names(rankers)
    if seeds < 1:
        raise InputError(f"seeds must be at least 1; found {seeds}")
    asked = {canonical(name): dict(given) for name, given in (settings or {}).items()}
    for name, given in asked.items():
        build.check_settings(name, given)
    members = _names(blended)
    if BLEND in names and (BLEND in members or len(members) < 2):
        raise InputError(f"a blend is made of at least two single rankers; found {', '.join(members)}")
    frames = files.read(progress)
    job = _Job(files.fingerprint, frames, asked, Stages(home=home), home / "checkpoints", progress)
    fitted = {name: [job.fitted(name, seed) for seed in range(seeds)] for name in names if name != BLEND}
    if BLEND in names:
        fitted[BLEND] = [job.blend(members, blend_method, seed) for seed in range(seeds)]
    result = LtrResult.of(
        {name: fitted[name] for name in names},
        frames["valid"].select(*QRELS),
        frames["test"].select(*QRELS),
        dataset=dataset or _name_of(files),
        fingerprint=files.fingerprint,
        blank=blank,
    )
    return _tracked(result, frames["test"], home, progress) if track else result


@dataclass(frozen=True)
class _Job:
    fingerprint: str
    frames: Mapping[str, pl.DataFrame]
    settings: Mapping[str, Mapping[str, Setting]]
    stages: Stages
    checkpoints: Path
    progress: Progress

    def fitted(self, name: str, seed: int) -> Fitted:
        """The ranker `name`, trained or taken from the cache, and its scores."""
        settings = {**defaults(name, self.frames["train"].height), **self.settings.get(name, {})}
        checkpoint = self.checkpoints / f"{_stage(name)}-{seed}-{self.fingerprint[:16]}.safetensors"

        def make(folder: Path) -> None:
            curve = Curve(self.progress, f"{name} seed {seed}")
            start = time.perf_counter()
            ranker = build.fit_ranker(
                name,
                self.frames["train"],
                self.frames["valid"],
                seed=seed,
                log=curve,
                settings=settings,
                checkpoint=checkpoint,
            )
            seconds = time.perf_counter() - start
            curve.frame().write_parquet(folder / "curve.parquet")
            self._scored(ranker, seconds, folder)

        output = self.stages.run(
            _stage(name),
            inputs={"data": self.fingerprint},
            settings={"seed": seed, "settings": dict(settings), **versions("lightgbm", "torch")},
            code=CODE,
            make=make,
        )
        checkpoint.unlink(missing_ok=True)
        return Fitted.read(name, seed, output, settings)

    def blend(self, members: Sequence[str], method: "BlendMethod", seed: int) -> Fitted:
        """The blend of `members`, fitted on validation."""
        parts = [self.fitted(name, seed + BAG_STRIDE * bag) for name in members for bag in range(BAGS)]

        def make(folder: Path) -> None:
            from rankers.blend import fit_blend

            self.progress(f"blend seed {seed}", 0, 1)
            start = time.perf_counter()
            rankers = [build.load_ranker(part.ranker) for part in parts]
            ranker = fit_blend(rankers, self.frames["valid"], method=method)
            seconds = time.perf_counter() - start + sum(part.train_s for part in parts)
            self._scored(ranker, seconds, folder)
            self.progress(f"blend seed {seed}", 1, 1)

        output = self.stages.run(
            BLEND,
            inputs={"data": self.fingerprint, **{f"{part.name} {part.seed}": part.key for part in parts}},
            settings={"seed": seed, "method": method},
            code=CODE,
            make=make,
        )
        return Fitted.read(BLEND, seed, output, {"members": list(members), "bags": BAGS, "method": method})

    def _scored(self, ranker: Ranker, seconds: float, folder: Path) -> None:
        """Save the ranker, its scores of the validation and test rows, and what each cost."""
        ranker.save(folder / "ranker")
        for split in ("valid", "test"):
            frame = self.frames[split]
            start = time.perf_counter()
            scores = ranker.score(frame)
            micros = 1e6 * (time.perf_counter() - start) / max(frame.height, 1)
            run = frame.select("qid", "docid", score=pl.Series(scores, dtype=pl.Float32))
            run.write_parquet(folder / f"{split}.parquet")
        costs = {"train_s": seconds, "predict_us_per_doc": micros}
        (folder / "costs.json").write_text(json.dumps(costs))


def _tracked(result: LtrResult, test: pl.DataFrame, home: Path, progress: Progress) -> LtrResult:
    from pipeline.ltr_tracking import track

    try:
        return track(result, test, home, progress)
    except CascadeError as error:
        log.warning("not in MLflow: %s", error)
        return result


def _names(rankers: Sequence[str]) -> list[str]:
    names = [canonical(name.strip()) for given in rankers for name in given.split(",") if name.strip()]
    if not names:
        raise InputError(f"no ranker was named; known: {', '.join(RANKERS)}")
    return list(dict.fromkeys(names))


def _name_of(files: Files) -> str:
    """The folder that holds the test file: `Fold1`, `mq2008`."""
    return files.test[0].resolve().parent.name or "letor"


def _stage(name: str) -> str:
    return f"ltr-{name.replace('+', '-')}"


def _reporting(progress: Progress, split: str) -> Any:
    return lambda done, total: progress(f"read {split}", done, total)
