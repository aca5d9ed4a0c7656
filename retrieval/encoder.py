"""Sentence encoders: text to unit vectors."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from retrieval.checkpoint import DEFAULT_ENCODER, locate
from retrieval.errors import InputError
from retrieval.threads import one_thread

log = logging.getLogger(__name__)

_CHUNK = 256
_SAMPLE = 200


class Encoder:
    """A sentence-transformers model whose vectors have unit length.

    name: `all-MiniLM-L6-v2` (packaged), a local folder or a hub id. device: "cpu", "cuda", or None to take a GPU when
    there is one. Models with query and document prompts get them.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, device: str | None = None, batch_size: int = 32) -> None:
        self.name = name
        self.batch_size = batch_size
        folder = locate(name)
        transformers_logging.disable_progress_bar()  # whoever encodes shows progress, or not
        try:
            self._model = SentenceTransformer(str(folder), device=device)
        except (OSError, ValueError) as error:
            raise InputError(f"encoder {name!r} in {folder} does not load: {str(error).splitlines()[0]}") from error

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit query vectors: float32 [len(texts), D], each encoded alone and on one thread.

        In a batch a text's neighbours change its vector in the last bits (padding, and matrix products of another
        shape: up to 2e-7 a coordinate, seen in 70 of 100 queries), and so does the number of threads (25 of 100). A
        ranker would be trained on features that no online search can compute. So, a query has one vector in training
        and serving.
        """
        with one_thread():
            return self._encode(texts, self._model.encode_query, lambda done, total: None, batch_size=1)

    def documents(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> NDArray[np.float32]:
        """Unit document vectors: float32 [len(texts), D]; `progress(done, total)` is called as they come."""
        return self._encode(texts, self._model.encode_document, progress, batch_size=self.batch_size)

    def _encode(
        self,
        texts: Sequence[str],
        encode: Callable[..., NDArray[np.float32]],
        progress: Callable[[int, int], None],
        *,
        batch_size: int,
    ) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self._model.get_embedding_dimension() or 0), dtype=np.float32)
        # Longest first, so that a batch pads little and a GPU that is too small fails at once.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            vectors[rows] = encode(
                [texts[row] for row in rows],
                batch_size=batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            progress(min(start + _CHUNK, len(order)), len(order))
        return vectors

    def warn_if_foreign(self, texts: Sequence[str]) -> None:
        """Warn when a tenth or more of the letters in a sample of `texts` are of a script the model was not made for.

        A script counts as covered when the vocabulary has 1,000 pieces of it: the English MiniLM has some hundreds of
        stray CJK, Cyrillic and Arabic characters, a multilingual model has tens of thousands.
        """
        step = max(1, len(texts) // _SAMPLE)
        letters = _scripts(texts[::step][:_SAMPLE])
        pieces = Counter(script for piece in self._model.tokenizer.get_vocab() for script in _scripts([str(piece)[:8]]))
        for script, count in letters.items():
            if count >= 0.1 * letters.total() and pieces[script] < 1000:
                log.warning(
                    "encoder %s knows little %s, which %d %% of the corpus's letters are: name a multilingual encoder",
                    self.name,
                    script if script == "CJK" else script.title(),
                    round(100 * count / letters.total()),
                )


def _scripts(texts: Iterable[str]) -> Counter[str]:
    """Letters by script, as the first word of the Unicode name: LATIN, CYRILLIC, CJK, HANGUL, …"""
    return Counter(
        unicodedata.name(letter, "UNNAMED").split(" ")[0].split("-")[0]
        for text in texts
        for letter in text[:2000]
        if letter.isalpha()
    )
