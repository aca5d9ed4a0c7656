"""Torch on one thread, for work that is small: one query to encode, one slate to score."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()
_WITHIN: list[int] = []
"""Torch's number of threads before the first of those within came, once for each of them."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and as before when the last of those within has left (who leaves earlier keeps one).

    Two threads that share a query wait for each other: on a busy two-core machine a search took 150 ms so (827 at the
    95th percentile), and 35 ms (47) on one. And the way in which a product is shared decides its last bits: on one
    thread they are the same on any number of cores. Searches in several threads of a process run side by side.
    """
    with _LOCK:
        _WITHIN.append(_WITHIN[0] if _WITHIN else torch.get_num_threads())
        torch.set_num_threads(1)  # by every thread that comes: the number is partly the process's, partly its own
    try:
        yield
    finally:
        with _LOCK:
            before = _WITHIN.pop()
            if not _WITHIN:
                torch.set_num_threads(before)
