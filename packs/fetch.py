"""Packages of Debian and npm, downloaded into the cache without being installed."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from nearfar.cache import alone, cache_folder, unfinished
from nearfar.errors import DataError


def downloads() -> Path:
    """The folder of downloaded packages; deleting it loses nothing but time."""
    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tool(name: str, pack: str, advice: str) -> str:
    """Path of a program, or one sentence on how to get it."""
    found = shutil.which(name)
    if found is None:
        raise DataError(
            f"the pack {pack!r} needs {name}, which is not installed; {advice} and try again, "
            "or use the pack 'objects', which needs no download."
        )
    return found


def debian(package: str, members: tuple[str, ...], *, pack: str) -> Path:
    """Download a Debian package and take out the files whose path starts with one of ``members``.

    Returns:
        The folder of the unpacked files, as they would lie under ``/``.

    Raises:
        DataError: without apt, without the package list, or when the download fails.
    """
    place = downloads() / f"debian-{package}"
    if place.is_dir():
        return place
    advice = "use Debian, Ubuntu or one of their containers"
    apt, unpack = tool("apt-get", pack, advice), tool("dpkg-deb", pack, advice)
    with alone(place):
        if place.is_dir():  # made by the process that we waited for
            return place
        with unfinished(place) as draft:
            _apt_download(apt, package, draft, pack)
            (archive,) = draft.glob("*.deb")
            _take_out(unpack, archive, members, draft)
            (draft / "version").write_text(f"{archive.name}\n")
            archive.unlink()
    return place


def _apt_download(apt: str, package: str, folder: Path, pack: str) -> None:
    # As root, apt would drop to a user who may not write here, and say so on every download.
    command = [apt, "-o", "APT::Sandbox::User=root", "download", package]
    result = _run(command, folder)
    if result.returncode and _is_root() and "Unable to locate" in result.stderr:
        _run([apt, "update"], folder)
        result = _run(command, folder)
    if result.returncode:
        raise DataError(
            f"the pack {pack!r} needs the Debian package {package}, and apt-get could not download it "
            f"({_last_line(result.stderr)}); check the network, run: apt-get update, and try again."
        )


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _take_out(unpack: str, archive: Path, members: tuple[str, ...], folder: Path) -> None:
    with subprocess.Popen([unpack, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    if member.isfile() and member.name.removeprefix("./").startswith(members):
                        _write(tar, member, PurePosixPath(member.name), folder)
        except tarfile.ReadError as error:
            raise DataError(f"the Debian package {archive.name} is damaged: {error}; try again.") from error


def npm(package: str, version: str, *, pack: str) -> Path:
    """Download one version of an npm package and unpack it.

    Returns:
        The folder that holds the package's files.

    Raises:
        DataError: without npm, or when the download fails.
    """
    name = package.removeprefix("@").replace("/", "-")
    place = downloads() / f"npm-{name}-{version}"
    if place.is_dir():
        return place
    command = tool("npm", pack, "install Node.js (e.g. apt-get install npm)")
    with alone(place):
        if place.is_dir():  # made by the process that we waited for
            return place
        with unfinished(place) as draft:
            result = _run([command, "pack", f"{package}@{version}", "--silent"], draft)
            archives = list(draft.glob("*.tgz"))
            if result.returncode or len(archives) != 1:
                raise DataError(
                    f"the pack {pack!r} needs the npm package {package}@{version}, and npm could not "
                    f"download it ({_last_line(result.stderr)}); check the network and try again."
                )
            unpack_npm(archives[0], draft)
            archives[0].unlink()
    return place


def unpack_npm(archive: Path, folder: Path) -> None:
    """Unpack the files of an npm archive into ``folder``, without the ``package/`` in front of each."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and len(path.parts) > 1:
                _write(tar, member, PurePosixPath(*path.parts[1:]), folder)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: PurePosixPath, folder: Path) -> None:
    """Write one file of an archive. (``extract(filter="data")`` came with Python 3.11.4.)"""
    place, content = folder / path, tar.extractfile(member)
    if content is None or not place.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"an archive holds {member.name!r}, which would be written outside of its folder; it is damaged "
            "or not to be trusted, and nothing more of it was unpacked."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with content, place.open("wb") as file:
        shutil.copyfileobj(content, file)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it gave no reason"
