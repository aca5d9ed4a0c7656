"""Training on a GPU: the same loop, the same checkpoints, and a ranker that serves on the CPU as any other."""

import numpy as np
import pytest
import torch

from rankers.artifact import load_ranker
from rankers.training import fit_network
from tests.rankers.synthetic import FEATURES, judged, ndcg

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
NAMES = ("ranknet", "ordinal", "listmle", "neural_ndcg", "lambda_loss+attention", "softmax+attention")


@pytest.mark.parametrize("name", NAMES)
def test_trains_as_well_as_on_the_cpu_and_serves_there(name, tmp_path):
    train, valid, unseen = judged(100, seed=1), judged(40, seed=2), judged(100, seed=3)
    found = {}
    for device in ("cpu", "cuda"):
        ranker = fit_network(
            name, train, valid, feature_names=FEATURES, log=lambda m, s: None, device=device, epochs=15, seed=7
        )
        ranker.save(tmp_path / device)
        scores = load_ranker(tmp_path / device).score(unseen)
        np.testing.assert_allclose(scores, ranker.score(unseen), atol=1e-6)
        found[device] = ndcg(unseen, scores)
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.05)  # other random numbers, a few epochs


def test_goes_on_from_a_checkpoint_made_on_the_gpu(tmp_path):
    class Stopped(Exception):
        pass

    def stop(metrics, step):
        if step == 4:
            raise Stopped

    train, valid = judged(60, seed=1), judged(30, seed=2)
    shared = {"feature_names": FEATURES, "device": "cuda", "epochs": 8, "patience": 8, "seed": 3}
    curve = []
    with pytest.raises(Stopped):
        fit_network("softmax", train, valid, log=stop, checkpoint=tmp_path / "c", **shared)
    fit_network(
        "softmax", train, valid, log=lambda m, s: curve.append(m["train_loss"]), checkpoint=tmp_path / "c", **shared
    )
    whole = []
    fit_network("softmax", train, valid, log=lambda m, s: whole.append(m["train_loss"]), **shared)
    np.testing.assert_allclose(curve, whole, rtol=1e-3)
