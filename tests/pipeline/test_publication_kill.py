"""kill -9 during publication leaves the old bundle or the new one, whole, never a mixture."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.bundle import Bundle, open_bundle

ROOT = Path(__file__).resolve().parents[2]
RANDOM_TRIALS = 80
FILES = ["a.bin", "b.bin", "folder/c.bin"]

# Publishes one version after another, and says "started N" and "done N" around each. Every second time it goes back to
# an earlier version, so that fresh bundles and reused ones are both met. It kills itself after the step numbered
# `fatal`, or runs until it is killed.
CHILD = """
import os, signal, sys
from pathlib import Path
from pipeline.bundle import publish

home, work, first, last, fatal = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
step = 0

def on_step(name):
    global step
    if str(step) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    step += 1

for number in range(first, last):
    version = number if number % 2 == 0 else max(number - 3, 0)
    content = (b"%08d" % version) * 8192
    (work / "folder").mkdir(parents=True, exist_ok=True)
    for name in ("a.bin", "b.bin", "folder/c.bin"):
        (work / name).write_bytes(content)
    os.write(1, b"started %d\\n" % version)
    publish(home, name="kill", files={"a.bin": work / "a.bin", "b.bin": work / "b.bin", "folder": work / "folder"},
            manifest={"version": version}, on_step=on_step)
    os.write(1, b"done %d\\n" % version)
"""


def start(home: Path, work: Path, first: int, last: int, fatal: int | str = "never") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(home), str(work), str(first), str(last), str(fatal)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def version_of(bundle: Bundle) -> int:
    """The version that every file of the bundle and its manifest agree on."""
    versions = {bundle.metadata["version"]}
    for name in FILES:
        data = bundle.file(name).read_bytes()
        versions.add(int(data[:8]))
        assert data == data[:8] * 8192
    assert len(versions) == 1, f"a mixture of versions {versions}"
    return versions.pop()


def old_or_new(home: Path, output: bytes, old: int) -> tuple[int, bool]:
    """Check what is current after a kill against what the child said; returns the version and whether it is new."""
    done, started = old, None
    for line in output.decode().splitlines():
        word, number = line.split()
        if word == "started":
            started = int(number)
        else:
            done, started = int(number), None
    version = version_of(open_bundle(home))
    assert version in (done, started), f"after done {done} and started {started}, {version} is current"
    return version, version == started and started != done


def test_killed_after_each_step_of_a_publication(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    assert start(home, work, 0, 1).wait(60) == 0
    current, outcomes = 0, []
    for fatal in itertools.count():
        process = start(home, work, 2 * fatal + 2, 2 * fatal + 3, fatal)
        output, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        current, new = old_or_new(home, output, current)
        outcomes.append(new)
    copied, sealed, swapped = [False] * len(FILES), [False, False, False], [True]
    assert outcomes == copied + sealed + swapped


SWAP = """
import itertools, sys
from pathlib import Path
from pipeline.durable import swap_link
for number in itertools.count():
    swap_link(Path(sys.argv[1]), f"bundles/{number}")
    if number == 0:
        print("swapping", flush=True)
"""


def test_there_is_no_moment_without_a_current_bundle(tmp_path):
    """A swap that takes the link away before it puts the new one there fails here within a few reads in a thousand."""
    current = tmp_path / "current"
    process = subprocess.Popen([sys.executable, "-c", SWAP, str(current)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"swapping\n"
        seen = {os.readlink(current) for _ in range(200_000)}
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert len(seen) > 1


def test_killed_at_random_moments(tmp_path, capsys):
    """The survivor of each kill is what the child had last reported done, or what it was publishing at that moment."""
    draw = random.Random(20)
    home, work = tmp_path / "home", tmp_path / "work"
    publish_first = start(home, work, 0, 1)
    assert publish_first.wait(60) == 0
    current, middle, new = 0, 0, 0
    begin = time.perf_counter()
    for trial in range(RANDOM_TRIALS):
        process = start(home, work, 100 * trial + 2, 100 * trial + 102)
        first = process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, 0.06))
        process.kill()
        output = first + process.communicate(timeout=60)[0]
        middle += output.splitlines()[-1].startswith(b"started")
        current, is_new = old_or_new(home, output, current)
        new += is_new
    seconds = time.perf_counter() - begin
    leftovers = [entry.name for entry in (home / "bundles").iterdir() if entry.name.startswith(".tmp")]
    assert len(leftovers) <= 1
    assert middle > RANDOM_TRIALS // 4, "too few kills fell inside a publication for the test to mean anything"
    assert start(home, work, 10**6, 10**6 + 1).wait(60) == 0
    assert version_of(open_bundle(home)) == 10**6
    assert not any(entry.startswith(".tmp") for entry in os.listdir(home / "bundles"))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{RANDOM_TRIALS} kills in {seconds:.1f} s, {middle} of them inside a publication: old bundle "
            f"{middle - new} times, new {new} times, a mixture never\n"
        )
