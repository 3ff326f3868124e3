"""What users install: wheel and sdist are whole, build without the Makefile, and import little."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from sdist import make_sdist

import mmapcache

ROOT = Path(__file__).resolve().parent.parent

# {"_id": "k", "text": "é", "n": 5, "sub": {"x": [1.5, True, None]}}
DOCUMENT = bytes.fromhex(
    "48000000025f696400020000006b0002746578740003000000c3a900106e00050000000373756200"
    "1f00000004780017000000013000000000000000f83f083100010a3200000000"
)
# Reads and writes text and numbers, and says which of the modules it must not need are loaded.
SMOKE = f"""
import sys, tempfile, os
import mmapcache
DOCUMENT = {DOCUMENT!r}
path = os.path.join(tempfile.mkdtemp(), "c.mmapcache")
with mmapcache.Writer(path, max_size="8MiB") as writer:
    with writer.batch() as batch:
        batch.put("sites", "k", DOCUMENT)
    with mmapcache.open(path) as cache:
        document = cache["sites"]["k"]
        assert document["text"] == "é" and document["n"] == 5 and document["sub"]["x"][0] == 1.5
heavy = set("bson pymongo tqdm tomli mmapcache.sync secantus".split()) & set(sys.modules)
print("loaded:", sorted(heavy), mmapcache.__version__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command without the caller's Python settings; returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds pip and nothing else."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, ROOT, cwd=out)
    (made,) = out.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist by the empty environment's pip."""
    out = tmp_path_factory.mktemp("wheel")
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", sdist, cwd=out)
    (made,) = out.glob("*.whl")
    return made


def copy_of_the_tree(copy: Path) -> Path:
    """A copy of the checkout without what was made in it."""
    made = (".git", ".venv", ".*_cache", ".hypothesis", "build", "dist", "__pycache__", "*.so")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*made), symlinks=True)
    return copy


@pytest.fixture(scope="module")
def tree(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout whose extension is built already: the wheel's, where setuptools looks
    for an up-to-date one. (Where it looks elsewhere, it compiles: the same, only slower.)"""
    copy = copy_of_the_tree(tmp_path_factory.mktemp("tree") / ROOT.name)
    built = copy / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    with zipfile.ZipFile(wheel) as archive:
        for extension in [name for name in archive.namelist() if name.endswith(".so")]:
            Path(archive.extract(extension, built)).touch()  # newer than its sources
    return copy


@pytest.mark.timeout(300)
def test_sdist_is_whole(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    missing = [
        name for name in tracked if name not in names and name not in {".gitignore", ".ci/run"}
    ]
    assert missing == []
    assert {"src/store.h", "src/_mmapcache.c", "mmapcache/py.typed", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


@pytest.mark.every
@pytest.mark.timeout(300)
def test_two_sdists_of_one_tree_have_the_same_bytes(tmp_path: Path) -> None:
    sdists = []
    for name, mode, time in (("one", 0o644, 1_600_000_000), ("two", 0o600, 1_700_000_000)):
        tree, out = copy_of_the_tree(tmp_path / name / "tree"), tmp_path / name
        for path in tree.rglob("*"):
            if path.is_file():
                path.chmod(mode | path.stat().st_mode & 0o100)
                os.utime(path, (time, time))
        sdists.append(make_sdist(out, 1_650_000_000, tree).read_bytes())
    assert sdists[0] == sdists[1]


@pytest.mark.every
@pytest.mark.timeout(300)
def test_wheel_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "mmapcache = mmapcache.__main__:main" in archive.read(entry_points).decode()
    assert {"mmapcache/__init__.py", "mmapcache/py.typed", "mmapcache/_mmapcache.pyi"} <= set(names)
    assert "mmapcache/serve/page.html" in names
    assert [name for name in names if name.startswith("mmapcache/_mmapcache.")][:1] != []
    assert {"mmapcache/ring/__init__.py", "mmapcache/ring/_ring.pyi"} <= set(names)
    assert len([name for name in names if name.startswith("mmapcache/ring/_ring.cpython")]) == 1
    assert any(name.endswith("LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"mmapcache"}
    shared = {name.partition(".data/data/share/")[2] for name in names if ".data/" in name}
    assert shared == {
        "bash-completion/completions/mmapcache.bash",
        "fish/vendor_completions.d/mmapcache.fish",
        "man/man1/mmapcache.1",
        "zsh/site-functions/_mmapcache",
    }
    assert "mmapcache/share/mmapcache.bash" in names


@pytest.mark.every
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["wheel", "tree"])
def test_installs_and_works_in_an_empty_environment(
    what: str, python: Path, wheel: Path, tree: Path, tmp_path: Path
) -> None:
    thing = wheel if what == "wheel" else tree
    run(python, "-m", "pip", "install", "--quiet", thing, cwd=tmp_path)
    said = run(python, "-W", "error", "-c", SMOKE, cwd=tmp_path)
    assert said.splitlines()[-1] == f"loaded: [] {mmapcache.__version__}"
    run(python.parent / "mmapcache", "--help", cwd=tmp_path)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "mmapcache", cwd=tmp_path)


# Prints the metadata of the wheel that would be built here.
METADATA = """
import pathlib
from setuptools import build_meta
made = build_meta.prepare_metadata_for_build_wheel(".")
print(pathlib.Path(made, "METADATA").read_text("utf-8"))
"""
ADDRESS = "https://host.example/owner/mmapcache/blob/v1/"


def package_page(sdist: Path, folder: Path, sources: str) -> tuple[list[str], str]:
    """Of what the sdist builds with MMAPCACHE_SOURCES: each Project-URL, and the page's text."""
    run("tar", "-xf", sdist, "-C", folder, cwd=folder)
    (tree,) = folder.iterdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [sys.executable, "-c", METADATA],
        cwd=tree, env={**env, "MMAPCACHE_SOURCES": sources}, check=False,
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    fields, _, page = result.stdout.partition("\n\n")
    page = page[page.index("# mmapcache\n") :]
    assert "the tutorial" in page
    return re.findall(r"^Project-URL: (.*)$", fields, re.MULTILINE), page


def test_package_page_without_an_address_has_no_link(sdist: Path, tmp_path: Path) -> None:
    urls, page = package_page(sdist, tmp_path, "")
    assert urls == []
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "docs/pictures" not in page


def test_package_page_of_a_release_leads_into_its_sources(sdist: Path, tmp_path: Path) -> None:
    urls, page = package_page(sdist, tmp_path, ADDRESS)
    assert urls == [
        "Source, https://host.example/owner/mmapcache",
        f"Documentation, {ADDRESS}docs/index.md",
        f"Changelog, {ADDRESS}CHANGELOG.md",
    ]
    found = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", page)
    pictures = [target for picture, target in found if picture]
    links = [target for picture, target in found if not picture]
    assert len(pictures) >= 2 and len(links) > 20
    assert all(target.endswith("?raw=true") for target in pictures)
    for target in [*pictures, *links, *(url.partition(", ")[2] for url in urls[1:])]:
        assert target.startswith("https://"), target
        if target.startswith(ADDRESS):
            path = re.split(r"[?#]", target.removeprefix(ADDRESS))[0]
            assert (ROOT / path).exists(), f"{target} leads nowhere"
    assert sum(target.startswith(ADDRESS) for target in links) > 20


def test_setup_refuses_an_address_that_links_cannot_be_made_from() -> None:
    result = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=ROOT, check=False, capture_output=True,
        env={**os.environ, "MMAPCACHE_SOURCES": ADDRESS.rstrip("/")}, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "has to be an address of the sources that ends with a slash" in result.stderr


def test_import_is_light(tmp_path: Path) -> None:
    said = run(sys.executable, "-W", "error", "-c", SMOKE, cwd=tmp_path)
    assert said.splitlines()[-1] == f"loaded: [] {mmapcache.__version__}"


def test_version_is_one() -> None:
    assert metadata.version("mmapcache") == mmapcache.__version__


def test_users_install_no_dependency_and_never_the_gpl_server() -> None:
    requires = metadata.requires("mmapcache") or []
    assert [line for line in requires if "extra ==" not in line] == []
    server = [line for line in requires if line.lower().startswith("secantus")]
    assert server and all('extra == "demo"' in line for line in server)


@pytest.mark.parametrize("value, given", [("1", True), ("0", False), (None, False)])
def test_setup_says_that_no_gil_is_needed_only_when_told_to(value: str | None, given: bool) -> None:
    name = "MMAPCACHE_FREE_THREADING"
    code = (
        "import setuptools; from distutils.core import run_setup;"
        "print(*run_setup('setup.py', stop_after='init').ext_modules[0].extra_compile_args)"
    )
    environment = {key: old for key, old in os.environ.items() if key != name}
    environment |= {} if value is None else {name: value}
    flags = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    ).stdout.split()
    assert (b"-DMC_NO_GIL" in flags, b"-std=c11" in flags) == (given, True)
    assert "defined(MC_NO_GIL)" in (ROOT / "src/_mmapcache.c").read_text()


def test_setup_refuses_a_big_endian_machine() -> None:
    code = "import runpy, sys; sys.byteorder = 'big'; runpy.run_path('setup.py')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == "mmapcache's file format is little-endian, and this machine is not\n"
