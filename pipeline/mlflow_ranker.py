"""The MLflow model of a system: MLflow runs this source to rebuild it, so that nothing is pickled.

A learned system scores FEATURES (qid, docid, a column a feature) with the ranker in the artifact `ranker`. Any other
system hands on the score that its stage gave, from the column `model_config["column"]`.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import polars as pl

from rankers.artifact import load_ranker
from retrieval.frames import PAIRS


class RankingModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Pandas frame in, a score a row out: float32 [n], higher is better, comparable within a query only."""

    def load_context(self, context: Any) -> None:
        ranker = context.artifacts.get("ranker")
        self._ranker = load_ranker(Path(ranker)) if ranker else None
        self._column = None if ranker else context.model_config["column"]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> npt.NDArray[np.float32]:
        if self._ranker is None:
            return np.asarray(model_input[self._column], np.float32)
        keys = {name: model_input[name].astype(str).to_list() for name in PAIRS}
        features = {name: np.asarray(model_input[name], np.float32) for name in self._ranker.feature_names}
        return np.asarray(self._ranker.score(pl.DataFrame({**keys, **features})), np.float32)


mlflow.models.set_model(RankingModel())
