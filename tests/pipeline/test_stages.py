import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.durable import fingerprint
from pipeline.stages import StageOutput, Stages
from retrieval.errors import CascadeError, InputError, IntegrityError

ROOT = Path(__file__).resolve().parents[2]
CODE = ["retrieval/errors.py"]


class Maker:
    """Writes two files, one of them in a subfolder, and counts how often it was asked to."""

    def __init__(self, text: str = "text") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "a.txt").write_text(self.text)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(bytes(range(256)))


def run(home: Path, make: Maker, *, stage: str = "encode", inputs=None, settings=None, code=None) -> StageOutput:
    return Stages(home=home).run(stage, inputs=inputs or {}, settings=settings or {}, code=code or CODE, make=make)


def stage_folders(home: Path) -> list[str]:
    """What is under home/stages but the locks: the finished stages and the temporary folders."""
    return sorted(entry.name for entry in (home / "stages").iterdir() if entry.name != ".locks")


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code` with the repository importable; its output is a pipe."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_second_run_is_cached_and_reports_the_seconds_of_the_first(tmp_path):
    make = Maker()
    first, second = run(tmp_path, make), run(tmp_path, make)
    assert (first.cached, second.cached, make.calls) == (False, True, 1)
    assert (second.path, second.key, second.seconds) == (first.path, first.key, first.seconds)
    assert (second.path / "a.txt").read_text() == "text"
    assert second.path.name == f"encode-{first.key[:16]}"


def test_record_holds_what_the_stage_was_made_from(tmp_path):
    output = run(tmp_path, Maker(), inputs={"corpus": "c0ffee"}, settings={"k1": 1.2})
    record = json.loads((output.path / "stage.json").read_text())
    assert record["inputs"] == {"corpus": "c0ffee"}
    assert record["settings"] == {"k1": 1.2}
    assert record["key"] == output.key
    assert list(record["files"]) == ["a.txt", "sub/b.bin"]
    assert record["files"]["a.txt"]["bytes"] == 4


def test_changed_setting_recomputes_itself_and_what_follows_and_nothing_else(tmp_path):
    calls: list[str] = []

    def pipeline(dimension: int) -> None:
        def stage(name: str, inputs: dict[str, str], settings: dict[str, int]) -> str:
            def make(folder: Path) -> None:
                calls.append(name)
                (folder / "out").write_text(name)

            return Stages(home=tmp_path).run(name, inputs=inputs, settings=settings, code=CODE, make=make).key

        corpus = stage("corpus", {}, {})
        encoded = stage("encode", {"corpus": corpus}, {"dimension": dimension})
        lexical = stage("bm25", {"corpus": corpus}, {})
        stage("fuse", {"dense": encoded, "lexical": lexical}, {})

    pipeline(384)
    assert calls == ["corpus", "encode", "bm25", "fuse"]
    calls.clear()
    pipeline(384)
    assert calls == []
    pipeline(768)
    assert calls == ["encode", "fuse"]


def test_changed_source_text_recomputes_without_importing_the_module(tmp_path, monkeypatch):
    package = tmp_path / "stagecode"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    module = package / "deep" / "encoder.py"
    module.write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    make = Maker()
    first = run(tmp_path, make, code=["stagecode/deep/encoder.py"])
    assert run(tmp_path, make, code=["stagecode/deep/encoder.py"]).cached
    module.write_text("raise RuntimeError('imported, and changed')")
    assert run(tmp_path, make, code=["stagecode/deep/encoder.py"]).key != first.key
    assert make.calls == 2
    assert "stagecode.deep.encoder" not in sys.modules


@pytest.mark.parametrize("code", ["retrieval/no_such.py", "no_such_package/a.py", "retrieval", "../pyproject.toml", ""])
def test_unknown_code_file_is_refused_by_name(tmp_path, code):
    with pytest.raises(InputError, match="no such module file"):
        run(tmp_path, Maker(), code=[code])


@pytest.mark.parametrize("settings", [{"k1": float("nan")}, {"path": Path("x")}, {"a": {1: "x", "b": "y"}}])
def test_settings_that_json_cannot_hold_are_refused(tmp_path, settings):
    with pytest.raises(InputError, match="stage encode: must be JSON values"):
        run(tmp_path, Maker(), settings=settings)
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize("stage", ["", "Encode", "a/b", "..", ".tmp-x"])
def test_stage_name_that_is_no_plain_name_is_refused(tmp_path, stage):
    with pytest.raises(InputError, match="a name is"):
        run(tmp_path, Maker(), stage=stage)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_fingerprint_ignores_the_order_of_mappings_alone(settings, random):
    names = list(settings)
    random.shuffle(names)
    assert fingerprint({name: settings[name] for name in names}, "x") == fingerprint(settings, "x")
    changed = {**settings, names[0]: [settings[names[0]]]}
    assert fingerprint(changed, "x") != fingerprint(settings, "x")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def add_file(path: Path) -> None:
    path.with_name("extra").write_text("")


def link(path: Path) -> None:
    twin = path.with_name(path.name + ".twin")
    path.rename(twin)
    path.symlink_to(twin)


@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", "stage.json"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, link])
def test_damaged_output_is_made_again_with_a_warning_that_names_the_file(tmp_path, caplog, name, damage):
    make = Maker()
    first = run(tmp_path, make)
    if name == "stage.json" and damage is flip:
        # A flipped bit in white space changes nothing: flip one in a recorded hash.
        record = (first.path / name).read_text()
        sha256 = json.loads(record)["files"]["a.txt"]["sha256"]
        (first.path / name).write_text(record.replace(sha256, sha256[::-1]))
        name = "a.txt"
    else:
        damage(first.path / name)
    again = run(tmp_path, make)
    assert (again.cached, make.calls) == (False, 2)
    assert "is made again" in caplog.text
    assert repr(name) in caplog.text
    assert run(tmp_path, make).cached
    assert stage_folders(tmp_path) == [first.path.name]


def test_added_file_is_not_trusted_either(tmp_path, caplog):
    make = Maker()
    add_file(run(tmp_path, make).path / "a.txt")
    assert not run(tmp_path, make).cached
    assert "'extra' does not belong here" in caplog.text


@pytest.mark.parametrize(
    "record", ["[]", "{}", "null", '{"key": "other"}', "[" * 100_000, b"\xff", '{"key": KEY, "files": {"../x": {}}}']
)
def test_record_of_another_shape_is_never_trusted(tmp_path, record):
    make = Maker()
    first = run(tmp_path, make)
    data = record if isinstance(record, bytes) else record.replace("KEY", json.dumps(first.key)).encode()
    (first.path / "stage.json").write_bytes(data)
    assert not run(tmp_path, make).cached
    assert make.calls == 2


def test_damage_between_two_looks_of_one_process_is_seen_at_the_same_size(tmp_path):
    make = Maker()
    first = run(tmp_path, make)
    os.utime(first.path / "a.txt", (1, 1))
    time.sleep(1.1)  # only a file that has been still for a second is remembered
    assert run(tmp_path, make).cached
    (first.path / "a.txt").write_text("tex!")
    os.utime(first.path / "a.txt", (1, 1))
    assert not run(tmp_path, make).cached


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_failed_or_interrupted_make_leaves_nothing(tmp_path, error):
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        run(tmp_path, make)
    assert stage_folders(tmp_path) == []
    assert not run(tmp_path, Maker()).cached


def test_link_or_a_file_of_the_caches_own_name_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="'passwd' is a link"):
        run(tmp_path, lambda folder: (folder / "passwd").symlink_to("/etc/passwd"))
    with pytest.raises(InputError, match=r"stage\.json"):
        run(tmp_path, lambda folder: (folder / "stage.json").write_text("{}"))
    assert stage_folders(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError("Not enough free space to write 20480000 bytes after offset 128"),
        RuntimeError("write error: No space left on device\nstack"),
    ],
)
def test_full_disk_is_one_clean_line_and_nothing_stays(tmp_path, error):
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(CascadeError, match="stage encode: no room to write") as caught:
        run(tmp_path, make)
    assert "\n" not in str(caught.value)
    assert stage_folders(tmp_path) == []


LIMITED = """
import sys
from pathlib import Path
from pipeline.stages import Stages
from retrieval.errors import CascadeError
try:
    Stages(home=Path(sys.argv[1])).run("big", inputs={}, settings={}, code=["retrieval/errors.py"],
                                       make=lambda folder: (folder / "big").write_bytes(bytes(1 << 20)))
except CascadeError as error:
    print(error)
"""


def test_file_size_limit_of_the_system_is_one_clean_line_and_nothing_stays(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("stage big: no room to write")
    assert stage_folders(tmp_path) == []


def test_home_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(InputError, match="in the way"):
        run(tmp_path / "home", Maker())


HALF = """
import sys, time
from pathlib import Path
from pipeline.stages import Stages
def make(folder):
    (folder / "half").write_text("half")
    print("half", flush=True)
    time.sleep(60)
Stages(home=Path(sys.argv[1])).run(sys.argv[2], inputs={}, settings={}, code=["retrieval/errors.py"], make=make)
"""


def test_killed_run_leaves_no_stage_and_the_next_run_of_any_stage_sweeps_it(tmp_path):
    for stage in ("encode", "train"):
        with child(HALF, tmp_path, stage) as process:
            assert process.stdout.readline() == "half\n"
            process.kill()
        assert [name.split("-")[:2] for name in stage_folders(tmp_path)] == [[".tmp", stage]]
    output = run(tmp_path, Maker())
    assert not output.cached
    assert stage_folders(tmp_path) == [output.path.name]


def test_temporary_folder_of_a_living_run_is_not_swept(tmp_path):
    started, finish = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        (folder / "slow").write_text("slow")
        started.set()
        assert finish.wait(30)

    thread = threading.Thread(target=run, args=(tmp_path, slow), kwargs={"stage": "slow"})
    thread.start()
    try:
        assert started.wait(30)
        run(tmp_path, Maker(), stage="quick")
        assert [name.split("-")[1] for name in stage_folders(tmp_path) if name.startswith(".tmp-")] == ["slow"]
    finally:
        finish.set()
        thread.join()
    assert [name.split("-")[0] for name in stage_folders(tmp_path)] == ["quick", "slow"]


ONCE = """
import sys, time
from pathlib import Path
from pipeline.stages import Stages
def make(folder):
    with open(sys.argv[2], "a") as calls:
        calls.write("called ")
    time.sleep(0.5)
    (folder / "out").write_text("out")
sys.stdin.readline()
stages = Stages(home=Path(sys.argv[1]))
print(stages.run("same", inputs={}, settings={}, code=["retrieval/errors.py"], make=make).cached)
"""


def test_processes_that_want_the_same_stage_at_once_make_it_once(tmp_path):
    calls = tmp_path / "calls"
    command = [sys.executable, "-c", ONCE, str(tmp_path / "home"), str(calls)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert answers == ["False", "True", "True"]
    assert calls.read_text() == "called "


KILLED_ANYWHERE = """
import sys
from pathlib import Path
from pipeline.stages import Stages
def make(folder):
    for number in range(20):
        (folder / str(number)).write_bytes(bytes([number]) * 50_000)
stages, number = Stages(home=Path(sys.argv[1])), 0
print("go", flush=True)
while True:
    stages.run("many", inputs={}, settings={"number": number}, code=["retrieval/errors.py"], make=make)
    number += 1
"""


def test_kill_at_random_moments_never_leaves_a_stage_that_is_not_whole(tmp_path):
    """Whatever has a stage's name after a kill is whole: the next run takes it as it stands and makes only the rest."""
    trials, in_the_middle = 15, 0
    for trial in range(trials):
        home = tmp_path / str(trial)
        home.mkdir()
        with child(KILLED_ANYWHERE, home) as process:
            assert process.stdout.readline() == "go\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01 + 0.007 * trial)
            process.kill()
        for folder in (home / "stages").glob("many-*"):
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "stage.json"}
            assert files == {str(number): bytes([number]) * 50_000 for number in range(20)}
            assert (folder / "stage.json").is_file()
        in_the_middle += len(list((home / "stages").glob(".tmp-*")))
        shutil.rmtree(home)
    assert in_the_middle > 0
