"""What is said of platforms is one thing everywhere, an sdist has the same bytes everywhere,
and what cannot be had today fails nothing."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import debian
import interpreters
import pytest
import sbom
import sdist
import wheel_targets

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
        sdist.repack(made, result, 1_700_000_000)
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


def test_the_wheels_that_ci_makes_are_those_that_the_page_says() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("this tree has no .ci: an sdist's")
    (arguments,) = re.findall(r'make wheels .*\\\n +ARGS="(.*)"', script.read_text())
    made = [word for word in arguments.split() if not word.startswith("--")]
    assert set(made) <= {target.name for target in wheel_targets.TARGETS}
    page = (ROOT / "docs" / "platforms.md").read_text()
    (said,) = re.findall(r"Of the wheels it makes ([^.]*)\.", page)
    assert re.findall(r"`(cp\S+)`", said) == made
    assert ("--twice" in arguments) == ("each twice" in said)


def test_a_release_knows_where_its_sources_are() -> None:
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    address = "${{ github.server_url }}/${{ github.repository }}/blob/${{ github.ref_name }}/"
    everywhere, _, jobs = release.partition("\njobs:\n")
    assert f"  MMAPCACHE_SOURCES: {address}\n" in everywhere  # for each job
    assert "MMAPCACHE_SOURCES" not in jobs
    (passed,) = re.findall(r"^environment-pass = (\[.*\])$", project, re.MULTILINE)
    assert '"MMAPCACHE_SOURCES"' in passed  # into the containers


def test_what_compiles_and_what_releases_is_one_version_each() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert len(re.findall(r'"ziglang==[\d.]+"', project)) == 1
    for path in (*(ROOT / "tools").glob("*.py"), ROOT / "Makefile", ROOT / ".ci" / "run"):
        if path.exists():  # .ci is not in an sdist
            assert not re.search(r"ziglang *[=<>~]", path.read_text()), path
    (generator,) = re.findall(r'"(cyclonedx-bom==[\d.]+)"', project)
    assert f"--spec {generator} " in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_bill_of_materials_names_what_users_install_and_no_more() -> None:
    names = [re.split(r"[<>=~ ;]", line)[0] for line in sbom.requirements()]
    users = ["kazoo", "openfeature-sdk", "prometheus-client", "pymongo", "redis", "tomli", "tqdm"]
    assert names == users


def test_an_interpreter_that_cannot_be_had_is_named_and_fails_nothing(tmp_path: Path) -> None:
    # On PATH is no interpreter, and no program of Debian's that could fetch one.
    env = {**os.environ, "PATH": str(tmp_path), "HOME": str(tmp_path)}
    env["PYTHONPATH"] = str(ROOT / "tools")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "proof" / "interpreters.py", "3.13", "3.15"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here, debians, last = done.stdout.splitlines()[-3:]
    assert re.fullmatch(r"3.13 +not to be had +not on this machine", here)
    assert re.fullmatch(r"3.15 +not to be had +dpkg is not on this machine: .*", debians)
    assert last == "interpreters: passed on CPython none; not to be had today: 3.13 3.15"


def test_what_cannot_be_fetched_says_why_in_one_line() -> None:
    fails = "import sys; print('Reading lists'); sys.exit('E: No route\\nE: Failed to fetch')"
    with pytest.raises(debian.NotAvailableError, match=r"python\S* -c .*: E: Failed to fetch$"):
        debian.run(sys.executable, "-c", fails)


@pytest.mark.parametrize("version", ["3.10", "3.14", "3.15"])
def test_a_wheel_that_nothing_can_run_says_so(version: str, tmp_path: Path) -> None:
    native = wheel_targets.Target(version, "musllinux", os.uname().machine)
    with pytest.raises(debian.NotAvailableError, match=f"^no CPython {version} on musl"):
        wheel_targets.Supply(tmp_path).command(native)
    assert not list(tmp_path.iterdir())  # nothing was fetched for it


def test_what_only_some_interpreters_run_is_there() -> None:
    for pattern in (*interpreters.LOADER, *interpreters.TOOLS):
        assert list((ROOT / "tests").glob(pattern)), f"no test matches {pattern}"
