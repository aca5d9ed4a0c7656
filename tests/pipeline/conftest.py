"""Homes with an MLflow database that is made once a session: its tables are the slow part of a first use."""

import shutil

import numpy as np
import polars as pl
import pytest

SETTINGS = {
    "lambdamart": {"rounds": 8, "min_data_in_leaf": 5},
    "ranknet": {"epochs": 2},
    "listnet+attention": {"epochs": 2},
}


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """A home whose database has its tables, and nothing else."""
    from pipeline.tracking import Tracker

    home = tmp_path_factory.mktemp("template")
    Tracker(home)
    return home


@pytest.fixture
def mlflow_home(mlflow_template, tmp_path):
    """A home of the test's own, its database copied from the template."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", home / "mlflow.db")
    return home


@pytest.fixture(scope="session")
def rows():
    """Judged FEATURES of 40 queries with 15 documents, four features, one of them missing now and then."""
    rng = np.random.default_rng(0)
    n = 600
    x = rng.normal(size=(n, 4)).astype(np.float32)
    latent = x[:, 0] + 0.7 * np.abs(x[:, 1]) + rng.normal(0, 0.5, n)
    x[rng.random(n) < 0.15, 1] = np.nan
    return pl.DataFrame(
        {
            "qid": [f"q{row // 15:02d}" for row in range(n)],
            "docid": [f"d{row % 15:02d}" for row in range(n)],
            **{name: x[:, place] for place, name in enumerate(("overlap", "cosine", "length", "age"))},
            "relevance": pl.Series((latent > 1.2).astype(np.int32) + (latent > 2).astype(np.int32)),
        }
    )


@pytest.fixture(scope="session")
def ranker_folders(rows, tmp_path_factory):
    """Name → the folder of a stored ranker: trees, a network, one that reads slates, and a blend of the first two."""
    from pipeline.build import fit_ranker
    from rankers.blend import fit_blend

    folder = tmp_path_factory.mktemp("rankers")
    fitted = {
        name: fit_ranker(name, rows, rows, seed=0, log=lambda metrics, step: None, settings=settings)
        for name, settings in SETTINGS.items()
    }
    fitted["blend"] = fit_blend([fitted["lambdamart"], fitted["ranknet"]], rows)
    for name, ranker in fitted.items():
        ranker.save(folder / name)
    return {name: folder / name for name in fitted}
