"""Downloads through programs that are stood in for by small scripts: nothing here needs a network."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nearfar.data import packs
from nearfar.errors import DataError
from packs import fetch

Script = Callable[[str, str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Put a shell script under a name on an otherwise empty PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))

    def write(name: str, lines: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{lines}\n")
        (programs / name).chmod(0o755)

    return write


def pack_files(path: Path, files: dict[str, str], mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_a_missing_npm_is_one_sentence(script: Script) -> None:
    with pytest.raises(
        DataError, match=r"'emoji' needs npm, which is not installed; install Node\.js .* try again"
    ):
        packs.load("emoji")


@pytest.mark.parametrize("name", ["furniture", "furniture-hard", "kanji"])
def test_a_missing_apt_is_one_sentence(script: Script, name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' needs apt-get, which is not installed"):
        packs.load(name)


def test_npm_packages_are_unpacked_once(script: Script, tmp_path: Path) -> None:
    files = {"package/icons.json": "{}", "package/deep/info.json": "[]", "stray": "x"}
    archive = pack_files(tmp_path / "made.tgz", files, "w:gz")
    script("npm", f'echo "$@" >> {tmp_path}/calls\ncp {archive} ./one-1.0.tgz')
    first = fetch.npm("@a/one", "1.0", pack="emoji")
    assert fetch.npm("@a/one", "1.0", pack="emoji") == first
    found = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert found == ["deep/info.json", "icons.json"]
    assert (tmp_path / "calls").read_text() == "pack @a/one@1.0 --silent\n"


def test_a_failed_npm_says_why_and_leaves_nothing(script: Script, tmp_path: Path) -> None:
    script("npm", "echo 'npm error network unreachable.' >&2; exit 1")
    with pytest.raises(
        DataError, match=r"@a/one@1\.0, and npm could not download it \(npm error network unreach"
    ):
        fetch.npm("@a/one", "1.0", pack="emoji")
    assert [path for path in (tmp_path / "cache/downloads").iterdir() if path.is_dir()] == []


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    archive = pack_files(tmp_path / "bad.tgz", {"package/../../escaped": "x"}, "w:gz")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"an archive holds .*escaped', which would be written outside"):
        fetch.unpack_npm(archive, tmp_path / "in")
    assert not (tmp_path / "escaped").exists()


def test_only_the_wanted_files_of_a_debian_package_are_taken(script: Script, tmp_path: Path) -> None:
    contents = pack_files(tmp_path / "data.tar", {"./usr/share/a/one": "1", "./usr/bin/two": "2"}, "w")
    script("apt-get", "touch thing_1.0_all.deb")
    script("dpkg-deb", f"cat {contents}")
    place = fetch.debian("thing", ("usr/share/a",), pack="furniture")
    assert (place / "usr/share/a/one").read_text() == "1"
    assert not (place / "usr/bin").exists()
    assert (place / "version").read_text() == "thing_1.0_all.deb\n"


def test_a_missing_package_list_is_named(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(
        "apt-get", f'echo "$@" >> {tmp_path}/calls; echo "E: Unable to locate package thing" >&2; exit 100'
    )
    script("dpkg-deb", "exit 1")
    for root, calls in ((False, ["download"]), (True, ["download", "update", "download"])):
        (tmp_path / "calls").unlink(missing_ok=True)
        monkeypatch.setattr(os, "geteuid", lambda root=root: 0 if root else 1000)
        with pytest.raises(DataError, match=r"Unable to locate package thing\); .* run: apt-get update"):
            fetch.debian("thing", ("usr",), pack="kanji")
        lines = (tmp_path / "calls").read_text().splitlines()
        assert ["update" if line == "update" else line.split()[-2] for line in lines] == calls
