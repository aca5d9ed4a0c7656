"""Fitted click models on disk: the same again, or refused."""

import json
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from rankers.clicks.cascade import fit_cascade
from rankers.clicks.dbn import fit_dbn
from rankers.clicks.log import counts
from rankers.clicks.pages import Pages
from rankers.clicks.pbm import fit_pbm
from rankers.clicks.simulate import simulate
from rankers.clicks.store import load_model, save_model
from rankers.clicks.users import DynamicBayesianUser
from retrieval.errors import InputError, IntegrityError
from tests.rankers.clicks.worlds import shown, silent

LOG = simulate(shown(5, 4), DynamicBayesianUser(), sessions=300, seed=1, swap=0.5)
FITS = {
    "pbm": lambda: fit_pbm(counts(LOG), log=silent),
    "cascade": lambda: fit_cascade(LOG, log=silent),
    "dbn": lambda: fit_dbn(LOG, log=silent),
}


@pytest.mark.parametrize("name", FITS)
def test_a_model_comes_back_the_same(name: str, tmp_path: Path) -> None:
    model = FITS[name]()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.name, loaded.shared) == (name, model.shared)
    assert_frame_equal(loaded.parameters, model.parameters)
    pages = Pages.of(LOG)
    assert (loaded.marginal(pages) == model.marginal(pages)).all()
    assert (loaded.conditional(pages) == model.conditional(pages)).all()


def altered(folder: Path, **fields: object) -> None:
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, **fields}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "model.json").unlink(), "cannot be read"),
        (lambda f: (f / "parameters.parquet").unlink(), "cannot be read"),
        (lambda f: (f / "parameters.parquet").write_bytes((f / "parameters.parquet").read_bytes()[:-1]), "truncated"),
        (lambda f: (f / "model.json").write_text("{"), "not the description of a click model"),
        (lambda f: (f / "model.json").write_text("[]"), "not the description of a click model"),
        (lambda f: altered(f, shared={"continuation": 0.1}), "altered"),
        (lambda f: altered(f, name="pbm"), "altered"),
    ],
)
def test_an_altered_model_is_refused(spoil, said: str, tmp_path: Path) -> None:
    save_model(FITS["dbn"](), tmp_path)
    spoil(tmp_path)
    with pytest.raises(IntegrityError, match=said):
        load_model(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(FITS["cascade"](), tmp_path / "file" / "model")
