"""The one SQLite file that MLflow keeps its runs and registry in: made whole, checked, and opened without chatter."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

# MLflow reads these as it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# No model is ever unpickled here, whatever the user's environment allows.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from pipeline.durable import sync, writing
from retrieval.errors import CascadeError, InputError

DATABASE = "mlflow.db"

for chatty in ("mlflow", "alembic"):
    logging.getLogger(chatty).setLevel(logging.WARNING)


def open_client(database: Path, *, artifacts: Path) -> mlflow.MlflowClient:
    """A client of `database`, which is made where it is missing or empty; the caller holds its lock.

    Raises InputError for a path that MLflow cannot write in a URI, CascadeError for a file of another kind.
    """
    if odd := re.search(r"[?%#]", str(database)):
        raise InputError(f"{database.parent}: MLflow cannot use a path with {odd[0]!r}; name another folder")
    if not database.exists() or not database.stat().st_size:
        _initialise(database, artifacts)
    _check(database)
    uri = f"sqlite:///{database}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    # The client connects with its first request.
    client.search_experiments(max_results=1)
    return client


@contextmanager
def failing_clearly(database: Path) -> Iterator[None]:
    """Turn whatever MLflow and SQLite raise into a CascadeError of one line that names `database`."""
    try:
        with writing("tracking", database.parent):
            yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{database}: MLflow failed ({reason}); if the file is damaged, move it away to begin anew"
        raise CascadeError(message) from error


def _initialise(database: Path, artifacts: Path) -> None:
    """Make the tables aside, then rename: MLflow runs dozens of migrations, and a kill amid them leaves a torso."""
    fresh = database.with_name(".mlflow.db.new")
    # A journal left by a kill would be rolled back into the new file.
    for torso in (fresh, fresh.with_name(f"{fresh.name}-journal")):
        torso.unlink(missing_ok=True)
    # The file is synced as a whole before it counts; a sync a migration is most of the time of a first run.
    event.listen(Engine, "connect", _without_sync)
    try:
        SqlAlchemyStore(f"sqlite:///{fresh}", artifacts.as_uri()).engine.dispose()
    finally:
        event.remove(Engine, "connect", _without_sync)
    sync(fresh)
    os.replace(fresh, database)
    sync(database.parent)


def _without_sync(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _check(database: Path) -> None:
    """MLflow tries a file that it cannot open for minutes; SQLite tells at once."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    if not tables:
        raise CascadeError(f"{database}: not an MLflow database; move it away to begin anew")
