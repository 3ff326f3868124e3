"""The hand-written stubs agree with the extension, and mypy reads them as a user's code would."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmapcache

pytestmark = pytest.mark.once

STUB = Path(mmapcache.__file__).parent / "_mmapcache.pyi"

pytest.importorskip("mypy", reason="the lint extra is not installed")


def run_module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` with the package in mypy's sight; the caller looks at the result."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "MYPYPATH": str(STUB.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mmapcache._mmapcache", "mmapcache.ring._ring"])
def test_stubtest(tmp_path: Path, module: str) -> None:
    if "ring" in module:
        pytest.importorskip("redis", reason="the ring extra is not installed")
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nignore_missing_imports = true\n")  # what the ring's clients use
    result = run_module("mypy.stubtest", "--mypy-config-file", "mypy.ini", module, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "revealed"),
    [
        ('mmapcache.open("f")', "Cache"),
        ('mmapcache.open("f")["sites"]', "Collection"),
        ('mmapcache.open("f")["sites"].get_raw("k")', "bytes | None"),
        ('mmapcache.open("f").generation', "int"),
        ('mmapcache.open("f").wait(1, 0.5)', "bool"),
        ('mmapcache.Writer("f").reader()', "Cache"),
    ],
)
def test_user_code_is_typed(tmp_path: Path, line: str, revealed: str) -> None:
    (tmp_path / "user.py").write_text(f"import mmapcache\nreveal_type({line})\n")
    result = run_module("mypy", "--strict", "user.py", cwd=tmp_path)
    assert "Revealed type is" in result.stdout, result.stdout
    said = result.stdout.replace("builtins.", "").replace("mmapcache._mmapcache.", "")
    assert f'"{revealed}"' in said.replace("Union[bytes, None]", "bytes | None"), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        'mmapcache.open("f")["sites"]["k"] = {}',
        'mmapcache.open("f")["sites"].clear()',
        'mmapcache.Writer("f").batch().put(1, "k", {})',
        'mmapcache.open("f").generation = 1',
    ],
)
def test_wrong_user_code_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "user.py").write_text(f"import mmapcache\n{line}\n")
    result = run_module("mypy", "--strict", "user.py", cwd=tmp_path)
    assert "user.py:2: error" in result.stdout, result.stdout + result.stderr


def test_every_exception_of_the_stub_is_public() -> None:
    classes = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    exceptions = {name for name, bases in classes.items() if "MmapCacheError" in bases}
    assert "FullError" in exceptions
    for name in exceptions:
        found = getattr(mmapcache, name)
        assert issubclass(found, mmapcache.MmapCacheError)
        assert [base.__name__ for base in found.__bases__] == classes[name]
        assert name in mmapcache.__all__


def test_everything_public_exists() -> None:
    assert [name for name in mmapcache.__all__ if not hasattr(mmapcache, name)] == []
