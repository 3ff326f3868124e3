"""What is said of platforms is one thing everywhere, and an sdist has the same bytes everywhere."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import interpreters
import pytest
import wheel_targets
import wheels

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent


def archive(path: Path, names: list[str], owner: int, mode: int) -> Path:
    """A .tar.gz as a machine makes it: files in some order, of somebody's, of some time."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = owner
            entry.uname = f"user{owner}"
            entry.mtime = owner * 1000 + 0.5
            entry.mode = mode
            content = name.encode()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_an_sdist_has_the_same_bytes_whoever_makes_it(tmp_path: Path) -> None:
    one = archive(tmp_path / "one.tar.gz", ["p/a", "p/é", "p/b"], 1000, 0o664)
    two = archive(tmp_path / "two.tar.gz", ["p/b", "p/a", "p/é"], 0, 0o600)
    assert one.read_bytes() != two.read_bytes()
    results = [tmp_path / name for name in ("first", "second")]
    for made, result in zip((one, two), results, strict=True):
        wheels.repack(made, result, 1_700_000_000)
    assert results[0].read_bytes() == results[1].read_bytes()
    with tarfile.open(results[0]) as tar:
        assert [entry.name for entry in tar] == ["p/a", "p/b", "p/é"]
        content = tar.extractfile("p/é")
        assert content is not None and content.read() == "p/é".encode()


def test_every_place_names_the_same_versions_of_python() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    classifiers = tuple(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project))
    (built,) = re.findall(r'^build = "(.*)"', project, re.MULTILINE)
    released = tuple(word.replace("cp3", "3.").removesuffix("-*") for word in built.split())
    assert classifiers == interpreters.VERSIONS == wheel_targets.VERSIONS == released
    assert f'requires-python = ">={classifiers[0]}"' in project


def test_a_release_knows_where_its_sources_are() -> None:
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    address = "${{ github.server_url }}/${{ github.repository }}/blob/${{ github.ref_name }}/"
    everywhere, _, jobs = release.partition("\njobs:\n")
    assert f"  MMAPCACHE_SOURCES: {address}\n" in everywhere  # for each job
    assert "MMAPCACHE_SOURCES" not in jobs
    (passed,) = re.findall(r"^environment-pass = (\[.*\])$", project, re.MULTILINE)
    assert '"MMAPCACHE_SOURCES"' in passed  # into the containers


def test_what_only_some_interpreters_run_is_there() -> None:
    for pattern in (*interpreters.LOADER, *interpreters.TOOLS):
        assert list((ROOT / "tests").glob(pattern)), f"no test matches {pattern}"
