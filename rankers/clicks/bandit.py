"""The Open Bandit Dataset: logged recommendations with the probability that each was chosen. No queries.

Saito, Aihara, Matsutani and Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021. Each campaign (all, men, women)
was logged under two policies at once, uniform random and Bernoulli Thompson sampling, so that what one log says of the
other policy can be compared with what that policy did earn. Ten thousand rows of each are packaged with `obp`, as CSV:
`obd/POLICY/CAMPAIGN/CAMPAIGN.csv`.
"""

import importlib.metadata
from pathlib import Path

import polars as pl

from rankers.clicks.offpolicy import Units, bandit_units
from retrieval.errors import InputError, MissingExtra
from retrieval.frames import Schema, check
from retrieval.records import read_records

BANDIT: Schema = {"item": pl.String, "position": pl.Int32, "click": pl.Boolean, "propensity": pl.Float64}
"""A decision a row: the item shown at a position (from 1), and the probability with which the policy chose it there."""
POLICY: Schema = {"item": pl.String, "position": pl.Int32, "probability": pl.Float64}
"""A policy that looks at no context: the probability of each item at a position; they sum to 1 there."""

_CSV = {"item_id": "item", "position": "position", "click": "click", "propensity_score": "propensity"}


def packaged_folder() -> Path:
    """Where the installed package `obp` holds the data set, found without importing it. Raises MissingExtra."""
    try:
        files = importlib.metadata.files("obp") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtra("the Open Bandit Dataset comes with obp: run `pip install --no-deps obp`") from error
    for file in files:
        if file.parts[-5:-2] and "obd" in file.parts and file.suffix == ".csv":
            return Path(str(file.locate())).parents[2]
    raise MissingExtra("the installed obp holds no data set; obp 0.5.7 does: `pip install --no-deps obp==0.5.7`")


def read_bandit_log(folder: Path) -> pl.DataFrame:
    """BANDIT of a campaign's folder, such as `obd/random/all`: its `all.csv`.

    Raises InputError naming the file for one that is missing or malformed, a click that is neither 0 nor 1, a position
    that is no integer from 1 and a propensity outside (0, 1].
    """
    path = folder / f"{folder.resolve().name}.csv"
    records = read_records(path)
    if missing := [theirs for theirs in _CSV if theirs not in records.frame.columns]:
        raise InputError(f"{path}: needs the columns {', '.join(_CSV)}; there is no {missing[0]}")
    raw = records.frame.select(pl.col(theirs).alias(ours) for theirs, ours in _CSV.items())
    if raw.is_empty():
        raise InputError(f"{path}: holds no decision; at least one is needed")
    position = raw["position"].cast(pl.Int32, strict=False)
    propensity = raw["propensity"].cast(pl.Float64, strict=False)
    records.refuse(~raw["click"].is_in(["0", "1"]), "click must be 0 or 1")
    records.refuse((position < 1).fill_null(True), "position must be an integer from 1")
    inside = ((propensity > 0) & (propensity <= 1)).fill_null(False)
    records.refuse(~inside, "propensity_score must be above 0 and at most 1")
    log = raw.select("item", position, (pl.col("click") == "1").alias("click"), propensity)
    return check(log, BANDIT, str(path))


def policy_of(log: pl.DataFrame) -> pl.DataFrame:
    """POLICY as a BANDIT log shows it: how often each item was chosen at each position.

    Thompson sampling looks at no context, so its shares are its probabilities, but for sampling noise.
    """
    counted = check(log, BANDIT, "bandit log").group_by("item", "position").len()
    share = pl.col("len") / pl.col("len").sum().over("position")
    return counted.select("item", "position", probability=share).sort("position", "item")


def policy_units(log: pl.DataFrame, policy: pl.DataFrame, *, clip: float = float("inf")) -> Units:
    """Units of POLICY from a BANDIT log, one a decision; doubly robust by the log's click rates.

    The model of clicks is each item's click rate in the log, over all positions, drawn to the overall rate by as much
    as ten decisions' worth; it is fitted on the other half of the log (cross-fitting), so that it has not seen the
    clicks that correct it. Raises InputError for a policy whose probabilities do not sum to 1 at a position.
    """
    check(log, BANDIT, "bandit log")
    sums = check(policy, POLICY, "policy").group_by("position").agg(pl.col("probability").sum())
    if (policy["probability"] < 0).any() or ((sums["probability"] - 1).abs() > 1e-6).any():
        raise InputError("policy: the probabilities of a position are at least 0 and sum to 1")
    if absent := set(log["position"].unique()) - set(policy["position"].unique()):
        raise InputError(f"policy: chooses nothing at position {min(absent)}, which the log fills")
    halves = log.with_row_index("row").with_columns(half=pl.col("row") % 2)
    overall = float(log["click"].to_numpy().mean())
    rates = halves.group_by("item", "half").agg(
        rate=(pl.col("click").sum() + 10 * overall) / (pl.len() + 10),
    ).with_columns(half=1 - pl.col("half").cast(pl.Int32))  # fmt: skip
    known = halves.with_columns(pl.col("half").cast(pl.Int32))
    rows = known.join(rates, on=["item", "half"], how="left").join(policy, on=["item", "position"], how="left")
    expected = policy.join(pl.DataFrame({"half": [0, 1]}, schema={"half": pl.Int32}), how="cross").join(
        rates, on=["item", "half"], how="left"
    ).group_by("position", "half").agg(
        expected=(pl.col("probability") * pl.col("rate").fill_null(overall)).sum()
    )  # fmt: skip
    rows = rows.join(expected, on=["position", "half"], how="left").sort("row")
    weight = (rows["probability"].fill_null(0.0) / rows["propensity"]).to_numpy()
    return bandit_units(
        weight,
        rows["click"].cast(pl.Float64).to_numpy(),
        expected_logged=rows["rate"].fill_null(overall).to_numpy(),
        expected_policy=rows["expected"].to_numpy(),
        clip=clip,
    )
