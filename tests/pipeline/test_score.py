"""Judging run files end to end: what `cascade score` prints, on files small enough to work out by hand."""

import json
from pathlib import Path

import pytest
import pytrec_eval
from rich.console import Console

from pipeline.score import DEFAULT, Scores, render, score
from retrieval.errors import InputError

QRELS = "q1 0 a 1\nq1 0 b 0\nq2 0 a 2\nq2 0 c 1\nq3 0 a 0\nq4 0 z 1\n"
# q1 is right, q2 puts its best last, q3 has nothing relevant, q4 is not answered, q5 is not judged.
RUN = "q1 Q0 a 1 2 t\nq1 Q0 b 2 1 t\nq2 Q0 x 1 3 t\nq2 Q0 c 2 2 t\nq2 Q0 a 3 1 t\nq3 Q0 a 1 1 t\nq5 Q0 a 1 1 t\n"
WORSE = "q1 Q0 b 1 2 t\nq1 Q0 a 2 1 t\nq2 Q0 x 1 3 t\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    paths = tmp_path / "run", tmp_path / "qrels", tmp_path / "worse"
    for path, text in zip(paths, (RUN, QRELS, WORSE), strict=True):
        path.write_text(text)
    return paths


def test_means_by_hand(files: tuple[Path, Path, Path]) -> None:
    run, qrels, _ = files
    scores = score(run, qrels, metrics=["recip_rank", "recall_2", "recip_rank"])
    assert scores.metrics == pytest.approx({"recip_rank": (1 + 1 / 2) / 4, "recall_2": (1 + 1 / 2) / 4})
    assert (scores.queries, scores.blank_queries, scores.blank) == (4, 1, "zero")
    assert scores.per_query.rows() == [("q1", 1, 1), ("q2", 0.5, 0.5), ("q3", 0, 0), ("q4", 0, 0)]
    for name, (low, high) in scores.ci95.items():
        assert 0 <= low < scores.metrics[name] < high <= 1


@pytest.mark.parametrize(
    ("blank", "mean", "third"), [("zero", 1.5 / 4, 0), ("one", 2.5 / 4, 1), ("skip", 1.5 / 3, None)]
)
def test_the_blank_policy_reaches_every_figure(
    files: tuple[Path, Path, Path], blank: str, mean: float, third: float | None
) -> None:
    scores = score(files[0], files[1], metrics=["recip_rank"], blank=blank)  # type: ignore[arg-type]
    assert scores.metrics["recip_rank"] == pytest.approx(mean)
    assert scores.per_query["recip_rank"][2] == third
    assert scores.as_json()["blank"] == blank


def test_against_another_run(files: tuple[Path, Path, Path]) -> None:
    run, qrels, worse = files
    scores = score(run, qrels, metrics=["recip_rank", "success_5"], against=worse)
    assert scores.against is not None
    assert scores.against.metrics == pytest.approx({"recip_rank": 0.5 / 4, "success_5": 1 / 4})
    assert scores.against.difference == pytest.approx({"recip_rank": 1 / 4, "success_5": 1 / 4})
    # Differences (1/2, 1/2) and (1): exact p-values 2/4 and 2/2, of which Holm doubles the smaller.
    assert scores.against.p_value == pytest.approx({"recip_rank": 1, "success_5": 1})
    swapped = score(worse, qrels, metrics=["recip_rank", "success_5"], against=run).against
    assert swapped is not None
    assert swapped.difference == {name: -value for name, value in scores.against.difference.items()}


def test_a_run_against_itself_differs_in_nothing(files: tuple[Path, Path, Path]) -> None:
    against = score(files[0], files[1], against=files[0]).against
    assert against is not None
    assert set(against.difference.values()) == {0.0}
    assert set(against.ci95.values()) == {(0.0, 0.0)}
    assert set(against.p_value.values()) == {1.0}


def test_json_is_plain_and_keeps_its_keys(files: tuple[Path, Path, Path]) -> None:
    run, qrels, worse = files
    alone, compared = score(run, qrels), score(run, qrels, against=worse)
    assert list(alone.as_json()) == ["blank", "queries", "blank_queries", "metrics", "ci95"]
    assert list(compared.as_json()["against"]) == ["metrics", "difference", "ci95", "p_value"]
    for figures in (compared.as_json()["metrics"], *compared.as_json()["against"].values()):
        assert tuple(figures) == DEFAULT
    assert json.loads(json.dumps(compared.as_json(), allow_nan=False)) == compared.as_json()


def test_the_table_shows_every_figure(files: tuple[Path, Path, Path]) -> None:
    def shown(scores: Scores) -> str:
        console = Console(width=140)
        with console.capture() as capture:
            console.print(render(scores))
        return capture.get()

    run, qrels, worse = files
    scores = score(run, qrels, metrics=["recip_rank"], against=worse, blank="skip")
    table = shown(scores)
    for expected in ("recip_rank", "0.5000", "0.1667", "+0.3333", "4 queries; 1 with nothing relevant left out"):
        assert expected in table
    assert "Holm" not in shown(score(run, qrels))


def test_bad_input_is_refused_by_name(files: tuple[Path, Path, Path]) -> None:
    run, qrels, _ = files
    with pytest.raises(InputError, match="unknown metric 'ndcg'"):
        score(run, qrels, metrics=["ndcg"])
    with pytest.raises(InputError, match="unknown blank policy"):
        score(run, qrels, blank="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="line 1: needs 6 columns"):
        score(run, qrels, against=qrels)


def test_equal_to_pytrec_eval_on_a_real_data_set(tmp_path: Path) -> None:
    path = Path("../shared/data/cranfield/qrels")
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [line.split("\t") for line in next(path.glob("*.tsv")).read_text().splitlines()[1:]]
    qrels: dict[str, dict[str, int]] = {}
    for qid, docid, grade in rows:
        qrels.setdefault(qid, {})[docid] = int(grade)
    # Scores without meaning but with ties, for judged and unjudged documents alike.
    run = {qid: {str(d): float(d * int(qid) % 97) for d in range(1, 400)} for qid in list(qrels)[:-5]}
    lines = [f"{qid} Q0 {docid} 0 {value} t" for qid, docs in run.items() for docid, value in docs.items()]
    (tmp_path / "run").write_text("\n".join(lines))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "map", "recall_100"}).evaluate(run)
    ours = score(tmp_path / "run", next(path.glob("*.tsv")), metrics=["ndcg_cut_10", "map", "recall_100"]).metrics
    for name, value in ours.items():
        # Divided by all judged queries, the five unanswered ones too.
        assert value == pytest.approx(sum(figures[name] for figures in theirs.values()) / len(qrels), abs=1e-9)
