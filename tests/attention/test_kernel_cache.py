"""Compiled libraries are checked before they are loaded, and made anew where they are not what was recorded."""

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from attention.core import cache
from attention.kernels.cpu import build as builder
from attention.kernels.cpu.build import BuildError, build

SOURCE = "int one() { return 1; }"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a compiler that writes what it is given to compile."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\necho made >> "$0.log"\nwhile [ "$1" != -o ]; do unit=$1; shift; done\ncp "$unit" "$2"\n'
    )
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("ATTENTION_ZOO_CACHE", str(tmp_path / "new" / "cache"))
    builder.compiler.cache_clear()
    yield tmp_path / "new" / "cache"
    builder.compiler.cache_clear()


def compilations(folder: Path) -> int:
    log = folder.parents[1] / "c++.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def without_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    builder.compiler.cache_clear()


def test_a_library_is_made_once_for_its_owner_alone(folder):
    umask = os.umask(0)
    try:
        library = build("one", SOURCE)
    finally:
        os.umask(umask)
    assert library.read_text() == SOURCE
    assert build("one", SOURCE) == library
    assert compilations(folder) == 1
    assert {path.name for path in folder.iterdir()} == {
        library.name,
        f"{library.stem}.json",
        ".compiling.lock",
    }
    for path in (folder.parent, folder, *folder.iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


def test_a_complete_cache_serves_without_a_compiler(folder, monkeypatch):
    library = build("one", SOURCE)
    without_compiler(monkeypatch)
    assert build("one", SOURCE) == library
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found \(no-such-compiler\)"):
        build("one", SOURCE + "\n")


def test_the_name_says_what_is_compiled_and_not_where_it_lies(folder):
    library = build("one", SOURCE, flags=["-I/here", "-L/here", "-DA=1"])
    assert build("one", SOURCE, flags=["-I/there", "-L/there", "-DA=1"]) == library
    assert build("one", SOURCE, flags=["-I/here", "-L/here", "-DA=2"]) != library
    assert build("one", SOURCE + " ", flags=["-DA=1"]) != library


def damage(library: Path, how: str) -> None:
    record = library.with_suffix(".json")
    if how == "cut":
        library.write_bytes(library.read_bytes()[:5])
    elif how == "changed":
        library.write_bytes(library.read_bytes().replace(b"1", b"2"))
    elif how == "gone":
        library.unlink()
    elif how == "linked":
        library.symlink_to(library.rename(library.with_suffix(".moved")))
    elif how == "pipe":
        library.unlink()
        os.mkfifo(library)
    elif how == "writable":
        library.chmod(0o620)
    elif how == "foreign":
        os.chown(library, 65534, 65534)
    elif how == "record foreign":
        os.chown(record, 65534, 65534)
    elif how == "record writable":
        record.chmod(0o602)
    elif how == "record gone":
        record.unlink()
    elif how == "record of another":
        record.write_text(json.dumps({"bytes": 0, "sha256": "0" * 64}))
    else:
        record.write_text(how)


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "changed", "gone", "linked", "pipe", "writable", "foreign"),
        *("record foreign", "record writable", "record gone", "record of another"),
        *("", "{", "[]", "null", "5", '{"bytes": []}', "[" * 100_000, "9" * 5000),
    ],
    ids=lambda how: how[:12] or "empty",
)
def test_a_library_that_is_not_what_was_recorded_is_made_anew(folder, how, monkeypatch):
    if how in ("foreign", "record foreign") and os.geteuid() != 0:
        pytest.skip("only the superuser can give a file away")
    library = build("one", SOURCE)
    damage(library, how)
    assert not cache.intact(library)
    assert build("one", SOURCE) == library
    assert library.read_text() == SOURCE
    assert cache.intact(library)
    assert compilations(folder) == 2
    damage(library, how)
    without_compiler(monkeypatch)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        build("one", SOURCE)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777], ids=oct)
def test_a_folder_that_others_can_write_is_refused(folder, mode):
    build("one", SOURCE)
    folder.chmod(mode)
    with pytest.raises(BuildError, match=r"others can write it .*chmod go-w"):
        build("one", SOURCE)


def test_a_folder_of_another_user_is_refused(folder):
    if os.geteuid() != 0:
        pytest.skip("only the superuser can give a folder away")
    build("one", SOURCE)
    os.chown(folder, 65534, 65534)
    with pytest.raises(BuildError, match="it belongs to user 65534"):
        build("one", SOURCE)


def test_folders_that_cannot_be_had_are_one_line(folder, monkeypatch):
    folder.parent.mkdir()
    folder.write_text("a file")
    for chosen in (str(folder), "/dev/null/cache", "/tmp/" + "x" * 300, "~nosuchuser/cache"):
        monkeypatch.setenv("ATTENTION_ZOO_CACHE", chosen)
        with pytest.raises(BuildError, match=r"compiled kernels") as caught:
            build("one", SOURCE)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("compiler", "words"), [("/bin/true", "failed to compile"), ("/bin/false", "failed to compile")]
)
def test_a_compiler_that_fails_leaves_nothing(folder, monkeypatch, compiler, words):
    monkeypatch.setenv("CXX", compiler)
    builder.compiler.cache_clear()
    with pytest.raises(BuildError, match=words):
        build("one", SOURCE)
    assert [path.name for path in folder.iterdir()] == [".compiling.lock"]


def test_what_cannot_be_loaded_is_forgotten(folder):
    library = build("one", SOURCE)

    def loader(path: str) -> None:
        raise OSError(f"{path}: invalid ELF header\nmore")

    with pytest.raises(BuildError, match=r"cannot be loaded: .*invalid ELF header$"):
        builder.load(library, loader)
    assert not library.exists()
    build("one", SOURCE)
    assert compilations(folder) == 2


@pytest.mark.slow
def test_what_a_killed_compilation_left_is_removed(folder):
    code = textwrap.dedent(
        """
        import os, signal
        from attention.kernels.cpu import build
        build.compiler = lambda: "/bin/true"
        build.subprocess.run = lambda *x, **y: os.kill(os.getpid(), signal.SIGKILL)
        build.build("two", "int two;")
        """
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ})
    assert done.returncode == -9
    assert len(list(folder.glob(f"{cache.UNFINISHED}*"))) == 1
    library = build("one", SOURCE)
    assert {path.name for path in folder.iterdir()} == {
        library.name,
        f"{library.stem}.json",
        ".compiling.lock",
    }
