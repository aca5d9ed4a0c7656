"""One step back: the bundle before is served again, and the registry's aliases follow; or one data set's champion."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import make_current, open_bundle, rollback
from retrieval.errors import CascadeError, InputError

if TYPE_CHECKING:
    from pipeline.registry import Rollback

log = logging.getLogger(__name__)

DATABASE = "mlflow.db"


@dataclass(frozen=True)
class RolledBack:
    """The bundle that is now current (None: untouched) and what became of the registry's champion (None: untouched)."""

    bundle: str | None
    registry: "Rollback | None"

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.bundle is not None:
            yield f"current is now {self.bundle}"
        if self.registry is not None:
            r = self.registry
            before = f"{r.before} (version {r.before_version})"
            yield f"champion of {r.model} is now {r.champion} (version {r.version}), before {before}"


def roll_back(home: Path, model: str | None = None) -> RolledBack:
    """Go one step back; a second time undoes it.

    Without `model` the bundles `current` and `previous` change places, and the registry's champion of that data set
    becomes the system that is then served. With it (a registered model's name, or its data set's) champion and previous
    of that model change places; if the champion's bundle is served, the other's is then.

    Raises InputError where there is nothing to go back to, IntegrityError for a bundle that is not whole; nothing has
    changed then.
    """
    if model is not None:
        return _champion(home, model)
    folder = rollback(home)
    if not (home / DATABASE).is_file():
        return RolledBack(folder.name, None)
    from pipeline.tracking import Tracker

    served = open_bundle(folder).metadata
    try:
        moved = Tracker(home).follow_bundle(
            folder.name, str(served.get("dataset_fingerprint")), str(served.get("system_key"))
        )
    except CascadeError as error:
        log.warning("current is %s, but the registry's champion did not follow: %s", folder.name, error)
        return RolledBack(folder.name, None)
    return RolledBack(folder.name, moved)


def _champion(home: Path, model: str) -> RolledBack:
    if not (home / DATABASE).is_file():
        raise InputError(f"{home}: holds no model registry yet; `cascade run` or `cascade ltr` makes one")
    from pipeline.tracking import Tracker

    tracker = Tracker(home)
    plan = tracker.plan_rollback(model)
    current = (home / "current").resolve().name if (home / "current").is_symlink() else None
    if plan.before_bundle is None or plan.before_bundle != current:
        return RolledBack(None, tracker.roll_back(plan.model))
    if plan.bundle is None:
        raise InputError(
            f"{plan.model}: its champion's bundle {current} is served, and {plan.champion} (version {plan.version}) "
            f"was never published; `cascade rollback` goes back to the bundle before"
        )
    make_current(home, home / "bundles" / plan.bundle)
    return RolledBack(plan.bundle, tracker.roll_back(plan.model))
