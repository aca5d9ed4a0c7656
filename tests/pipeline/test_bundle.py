import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle import FORMAT, make_current, open_bundle, publish, rollback, verify
from pipeline.durable import fingerprint, is_inside, rendered
from retrieval.errors import CascadeError, InputError, IntegrityError

ROOT = Path(__file__).resolve().parents[2]
FILES = ["bm25/data.npy", "bm25/deep/terms.json", "dense.faiss", "empty.txt", "model.txt"]
METADATA = {"dataset": "c0ffee", "features": ["bm25", "cosine"], "analysis": {"stem": True, "k1": 1.2}}


def sources(folder: Path, version: str) -> dict[str, Path]:
    """A folder and three files to publish; each holds `version` but the one that is empty."""
    (folder / "bm25" / "deep").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(b"" if name == "empty.txt" else f"{name} of {version} ".encode() * 100)
    return {name: folder / name for name in ("bm25", "dense.faiss", "empty.txt", "model.txt")}


def publish_version(tmp_path: Path, version: str) -> Path:
    return publish(
        tmp_path / "home",
        name="SciFact, test",
        files=sources(tmp_path / version, version),
        manifest={**METADATA, "version": version},
    )


@pytest.fixture
def home(tmp_path):
    """A home with version A published, then version B."""
    publish_version(tmp_path, "A")
    publish_version(tmp_path, "B")
    return tmp_path / "home"


def current_version(home: Path) -> object:
    return open_bundle(home).metadata["version"]


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change the manifest as a forger would, with the fingerprint made right again."""
    content = {**json.loads((folder / "manifest.json").read_text()), **changes}
    content.pop("fingerprint")
    content["fingerprint"] = fingerprint(content, "test")
    (folder / "manifest.json").write_bytes(rendered(content))


def test_published_bundle_reads_back_as_it_was_given(tmp_path):
    folder = publish_version(tmp_path, "A")
    bundle = open_bundle(tmp_path / "home")
    assert bundle.path == folder.resolve()
    assert bundle.name == "SciFact, test"
    assert bundle.metadata == {**METADATA, "version": "A"}
    assert list(bundle.files) == FILES
    for name in FILES:
        assert bundle.file(name).read_bytes() == (tmp_path / "A" / name).read_bytes()
    assert bundle.file("bm25").is_dir()
    assert folder.name == f"scifact-test-{bundle.fingerprint[:12]}"
    assert os.readlink(tmp_path / "home" / "current") == f"bundles/{folder.name}"
    assert open_bundle(folder) == bundle
    with pytest.raises(InputError, match="holds no 'bm2'"):
        bundle.file("bm2")


def test_home_can_be_moved(tmp_path, home):
    home.rename(tmp_path / "moved")
    assert current_version(tmp_path / "moved") == "B"


def test_same_inputs_give_the_same_fingerprint_elsewhere_and_reuse_the_bundle_here(tmp_path):
    first = publish_version(tmp_path, "A")
    inode = (first / "model.txt").stat().st_ino
    assert publish_version(tmp_path, "A") == first
    assert (first / "model.txt").stat().st_ino == inode
    assert not (tmp_path / "home" / "previous").exists()
    other = publish_version(tmp_path / "elsewhere", "A")
    assert other.name == first.name
    assert (other / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()


@pytest.mark.parametrize("change", ["name", "metadata", "content", "file name"])
def test_anything_else_gives_another_fingerprint(tmp_path, change):
    first = publish_version(tmp_path, "A")
    files = sources(tmp_path / "again", "A")
    if change == "content":
        files["model.txt"].write_text("another")
    if change == "file name":
        files["model.json"] = files.pop("model.txt")
    name = "scifact test" if change == "name" else "SciFact, test"
    metadata = {**METADATA, "version": 1 if change == "metadata" else "A"}
    assert publish(tmp_path / "home", name=name, files=files, manifest=metadata) != first


def test_republishing_an_old_bundle_only_makes_it_current(tmp_path, home):
    before = set((home / "bundles").iterdir())
    publish_version(tmp_path, "A")
    assert current_version(home) == "A"
    assert open_bundle(home / "previous").metadata["version"] == "B"
    assert set((home / "bundles").iterdir()) == before


def test_rollback_exchanges_current_and_previous(home):
    assert current_version(home) == "B"
    assert open_bundle(rollback(home)).metadata["version"] == "A"
    assert current_version(home) == "A"
    rollback(home)
    assert current_version(home) == "B"


def test_rollback_without_a_previous_bundle_is_refused(tmp_path):
    publish_version(tmp_path, "A")
    with pytest.raises(InputError, match="no previous"):
        rollback(tmp_path / "home")


def test_rollback_to_a_damaged_bundle_is_refused_and_current_stays(home):
    (home / "previous" / "model.txt").write_text("damaged")
    with pytest.raises(IntegrityError, match=r"model\.txt"):
        rollback(home)
    assert current_version(home) == "B"


def test_make_current_takes_an_intact_bundle_of_this_home_alone(tmp_path, home):
    make_current(home, (home / "previous").resolve())
    assert current_version(home) == "A"
    elsewhere = shutil.copytree(home / "previous", tmp_path / "copy")
    assert open_bundle(elsewhere).metadata["version"] == "B"
    with pytest.raises(InputError, match="is not a bundle of"):
        make_current(home, elsewhere)
    (home / "previous" / "model.txt").unlink()
    with pytest.raises(IntegrityError, match=r"model\.txt"):
        make_current(home, home / "previous")
    assert current_version(home) == "A"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def link(path: Path) -> None:
    twin = path.parents[3] / "twin"
    shutil.copy(path, twin)
    path.unlink()
    path.symlink_to(twin)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = [truncate, flip, zero, grow, Path.unlink, link, pipe, folder]
# An empty file has no byte to cut, flip or zero.
DAMAGED = [(name, damage) for name in FILES for damage in DAMAGE[3 if name == "empty.txt" else 0 :]]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGED, *(("manifest.json", damage) for damage in DAMAGE)])
def test_damaged_file_is_refused_by_name_and_publishing_again_heals(tmp_path, home, name, damage):
    bundle = (home / "current").resolve()
    damage(bundle / name)
    with pytest.raises(IntegrityError) as caught:
        open_bundle(home)
    message = str(caught.value)
    assert repr(name) in message
    assert str(bundle) in message
    assert "cascade run" in message
    assert "cascade rollback" in message
    assert "\n" not in message
    with pytest.raises(IntegrityError):
        verify(bundle)
    healed = publish_version(tmp_path, "B")
    assert current_version(home) == "B"
    assert healed.name == f"{bundle.name}-2"
    assert open_bundle(home / "previous").metadata["version"] == "A"
    assert publish_version(tmp_path, "B") == healed


def test_damage_is_seen_after_the_file_was_verified_even_with_its_size_and_time_put_back(home):
    model = (home / "current").resolve() / "model.txt"
    os.utime(model, (1, 1))
    open_bundle(home)
    flip(model)
    os.utime(model, (1, 1))
    with pytest.raises(IntegrityError, match=r"'model\.txt' has been altered"):
        open_bundle(home)


@pytest.mark.parametrize("name", ["extra", "bm25/extra", ".hidden"])
def test_unknown_extra_file_is_refused_by_name(home, name):
    (home / "current" / name).write_text("")
    with pytest.raises(IntegrityError, match=f"'{name}' does not belong here"):
        open_bundle(home)


def test_folder_that_is_a_link_is_refused_by_name(home):
    bundle = (home / "current").resolve()
    (bundle / "bm25").rename(home / "outside")
    (bundle / "bm25").symlink_to(home / "outside")
    with pytest.raises(IntegrityError, match="'bm25' is a link"):
        open_bundle(home)


@pytest.mark.parametrize(
    "name", ["../model.txt", "/etc/passwd", "a/../../b", "./model.txt", "a//b", "", "a\\b", "a\0b"]
)
def test_name_that_leads_out_is_refused_in_a_manifest_and_in_publishing(tmp_path, home, name):
    bundle = (home / "current").resolve()
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    rewrite_manifest(bundle, files={**files, name: files["model.txt"]})
    with pytest.raises(IntegrityError, match="leads out of the folder"):
        open_bundle(home)
    with pytest.raises(InputError, match="plain relative path"):
        publish(tmp_path / "new", name="x", files={name: tmp_path / "A" / "model.txt"}, manifest={})
    assert not (tmp_path / "new").exists()


@given(st.text(alphabet=["a", ".", "/", "\\", "\0"], max_size=8))
def test_inside_name_never_leads_out(name):
    if is_inside(name):
        assert Path(os.path.normpath(Path("/root") / name)) == Path("/root") / name
        assert Path("/root") in (Path("/root") / name).parents


def test_manifest_of_another_format_is_refused_by_name(home):
    rewrite_manifest((home / "current").resolve(), format=FORMAT + 1)
    message = rf"'manifest\.json' is of format {FORMAT + 1}; this Cascade reads {FORMAT}"
    with pytest.raises(IntegrityError, match=message):
        open_bundle(home)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"format": 1}', "[" * 100_000, '{"format": 1, "files": [], "name": NaN}', "\udcff"],
)
def test_manifest_of_another_shape_is_refused_by_name(home, text):
    (home / "current" / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match=r"'manifest\.json'"):
        open_bundle(home)


@pytest.mark.parametrize(
    "record", [None, [], {"bytes": 1}, {"bytes": "1", "sha256": "0" * 64}, {"bytes": 1, "sha256": ""}]
)
def test_malformed_record_is_refused_by_name(home, record):
    rewrite_manifest((home / "current").resolve(), files={"model.txt": record})
    with pytest.raises(IntegrityError, match=r"the file 'model\.txt' is malformed"):
        open_bundle(home)


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory):
    return publish_version(tmp_path_factory.mktemp("shared"), "A")


@settings(max_examples=300, deadline=None)
@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_manifest_is_refused(shared_bundle, position, bit):
    """Every byte of a manifest counts: none can change without being seen."""
    folder = shared_bundle
    whole = (folder / "manifest.json").read_bytes()
    data = bytearray(whole)
    data[position % len(data)] ^= 1 << bit
    try:
        (folder / "manifest.json").write_bytes(data)
        with pytest.raises(IntegrityError):
            open_bundle(folder)
    finally:
        (folder / "manifest.json").write_bytes(whole)
    verify(folder)


def test_nothing_published_names_the_command_that_publishes(tmp_path):
    for home in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="`cascade run pydocs`"):
            open_bundle(home)


def test_current_that_points_to_nothing_says_what_to_do(tmp_path, home):
    shutil.rmtree((home / "current").resolve())
    with pytest.raises(IntegrityError, match=r"its folder is missing.*cascade rollback"):
        open_bundle(home)
    rollback(home)
    assert current_version(home) == "A"


def test_reader_keeps_the_bundle_that_it_opened(tmp_path, home):
    bundle = open_bundle(home)
    publish_version(tmp_path, "C")
    rollback(home)
    rollback(home)
    assert bundle.file("model.txt").read_bytes() == (tmp_path / "B" / "model.txt").read_bytes()
    verify(bundle.path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.txt": "A/missing"}, "A/missing: to be published as 'model.txt'"),
        ({"manifest.json": "A/model.txt"}, r"'manifest\.json' is taken"),
        ({"bm25": "A/bm25", "bm25/data.npy": "A/model.txt"}, r"'bm25/data\.npy' is taken"),
        ({"a": "A/model.txt", "a/b/c": "A/model.txt"}, "'a' is both a file and the folder of 'a/b/c'"),
    ],
)
def test_sources_that_cannot_be_published_are_refused_and_nothing_is_written(tmp_path, files, message):
    sources(tmp_path / "A", "A")
    with pytest.raises(InputError, match=message):
        publish(tmp_path / "new", name="x", files={k: tmp_path / v for k, v in files.items()}, manifest={})
    assert not (tmp_path / "new").exists()


def test_source_folder_with_a_link_in_it_is_refused(tmp_path):
    files = sources(tmp_path / "A", "A")
    (tmp_path / "A" / "bm25" / "link").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match="'link' is a link"):
        publish(tmp_path / "new", name="x", files=files, manifest={})


def test_metadata_is_kept_as_json_reads_it_back(tmp_path):
    publish(tmp_path, name="数据", files={}, manifest={"pair": (1, 2), "by_grade": {10: "a", 9: "b"}})
    bundle = open_bundle(tmp_path)
    assert bundle.metadata == {"pair": [1, 2], "by_grade": {"10": "a", "9": "b"}}
    assert bundle.path.name.startswith("dataset-")
    with pytest.raises(InputError, match="metadata: must be JSON values"):
        publish(tmp_path, name="x", files={}, manifest={"score": float("nan")})


def test_current_that_is_no_symlink_is_read_and_never_replaced(tmp_path, home):
    """What a copy that follows links (cp -L, an archive) makes of a home."""
    copy = shutil.copytree(home, tmp_path / "copy", symlinks=False)
    assert current_version(copy) == "B"
    with pytest.raises(InputError, match="is not the symlink"):
        publish(copy, name="x", files={}, manifest={})
    assert current_version(copy) == "B"


def test_failure_while_copying_leaves_the_old_bundle_and_nothing_else(tmp_path, home):
    def full(step: str) -> None:
        if step == "copied dense.faiss":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted((home / "bundles").iterdir())
    files = sources(tmp_path / "C", "C")
    with pytest.raises(CascadeError, match="the search bundle: no room to write") as caught:
        publish(home, name="x", files=files, manifest={}, on_step=full)
    assert "\n" not in str(caught.value)
    assert current_version(home) == "B"
    assert sorted((home / "bundles").iterdir()) == before


LIMITED = """
import sys
from pathlib import Path
from pipeline.bundle import publish
from retrieval.errors import CascadeError
try:
    publish(Path(sys.argv[1]), name="big", files={"big": Path(sys.argv[2])}, manifest={})
except CascadeError as error:
    print(error)
"""


def test_file_size_limit_of_the_system_leaves_the_old_bundle(tmp_path, home):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    (tmp_path / "big").write_bytes(bytes(1 << 20))
    before = sorted((home / "bundles").iterdir())
    command = [sys.executable, "-c", LIMITED, str(home), str(tmp_path / "big")]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the search bundle: no room to write")
    assert current_version(home) == "B"
    assert sorted((home / "bundles").iterdir()) == before


def test_publishers_and_readers_at_once_never_see_a_mixture(tmp_path, home):
    """Four threads publish their own versions over and over while the readers open whatever is current."""
    versions = ["W", "X", "Y", "Z"]
    done = threading.Event()
    seen: list[str] = []
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                bundle = open_bundle(home)
                text = bundle.file("model.txt").read_text()
                assert text.startswith(f"model.txt of {bundle.metadata['version']} ")
                seen.append(str(bundle.metadata["version"]))
        except BaseException as error:
            failures.append(error)
            raise

    def write(version: str) -> None:
        for _ in range(5):
            publish_version(tmp_path, version)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(version,)) for version in versions]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert len(set(seen) & set(versions)) > 1
    assert current_version(home) in versions
    assert open_bundle(home / "previous").metadata["version"] != current_version(home)
    assert len(list((home / "bundles").glob("scifact-test-*"))) == 2 + len(versions)
