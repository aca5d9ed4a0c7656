"""The packaged encoder: found without loading it, unit vectors, and a word where it cannot read the corpus."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.checkpoint import DEFAULT_ENCODER, fingerprint, locate
from retrieval.encoder import Encoder
from retrieval.errors import InputError


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def test_vectors_have_unit_length_and_keep_the_order_of_the_texts(encoder: Encoder) -> None:
    texts = ["how to read a zip file", "a", "the mitochondria is the powerhouse of the cell " * 5, "unpacking archives"]
    vectors = encoder.documents(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(vectors[row], encoder.documents([text])[0], atol=1e-5)
    asked = encoder.queries(["opening a zip archive"])[0]
    assert np.argsort(-(vectors @ asked))[:2].tolist() == [0, 3] or np.argmax(vectors @ asked) == 0


def test_a_query_has_one_vector_whatever_is_asked_beside_it(encoder: Encoder) -> None:
    texts = ["zip", "how do I read a zip file from a pathlib path", "open a socket", "what is a metaclass good for"]
    alone = np.concatenate([encoder.queries([text]) for text in texts])
    np.testing.assert_array_equal(encoder.queries(texts), alone)
    assert not np.array_equal(encoder.documents(texts), alone)  # a batch rounds otherwise: the reason for the rule


def test_a_query_has_one_vector_on_any_number_of_threads(encoder: Encoder) -> None:
    texts = ["zip", "how do I read a zip file from a pathlib path", "open a socket", "what is a metaclass good for"]
    before = torch.get_num_threads()
    vectors = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            vectors.append(encoder.queries(texts))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_queries_of_several_threads_are_encoded_side_by_side_to_the_same_vectors(encoder: Encoder) -> None:
    texts = [f"how do I read line {number} of a file" for number in range(8)]
    alone = encoder.queries(texts)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        vectors = np.concatenate(list(pool.map(lambda text: encoder.queries([text]), texts)))
    np.testing.assert_array_equal(vectors, alone)
    assert torch.get_num_threads() == before


def test_progress_ends_at_the_total(encoder: Encoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder.documents(["a"] * 300, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (300, 300)
    assert len(seen) > 1


def test_a_foreign_script_is_said_once_and_english_is_not(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder.warn_if_foreign(["reading a zip file"] * 30)
        assert not caplog.messages
        encoder.warn_if_foreign(["机器学习是人工智能的分支"] * 30)
    assert len(caplog.messages) == 1
    assert "knows little CJK" in caplog.messages[0]


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    original = locate(DEFAULT_ENCODER)
    copy = tmp_path / "model"
    shutil.copytree(original, copy)
    assert locate(str(copy)) == copy
    assert fingerprint(copy) == fingerprint(original)
    with (copy / "vocab.txt").open("a") as file:
        file.write("another\n")
    assert fingerprint(copy) != fingerprint(original)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither modules\.json nor config\.json"):
        locate(str(tmp_path))
