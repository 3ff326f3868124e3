"""Runs every linter and says which failed: `make lint`; with --analyze, clang's analyzer alone.

All of them run even when one has failed, so that one run shows everything there is to mend. The
rules are in .clang-format, .clang-tidy and pyproject.toml, the versions in pyproject.toml; the
rules of the architecture are tests (tests/test_lint.py).
"""

import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent


# The Redis module is checked where the packages that it is built with are installed.
MODULE = ["zookeeper/zookeeper.h", "cjson/cJSON.h"]
BUILDS = all((Path("/usr/include") / header).exists() for header in MODULE)
OWN_C = ("src/**/*.c", "ring/*.c", *(("redis_module/**/*.c",) if BUILDS else ()))
OWN_C_AND_H = ("src/**/*.[ch]", "ring/*.[ch]", "redis_module/**/*.[ch]")


def c_files(*patterns: str) -> list[str]:
    """Paths below the root, sorted, of the files that match one of the patterns."""
    return sorted(str(path.relative_to(ROOT)) for glob in patterns for path in ROOT.glob(glob))


# memcpy_s and its like, which the second of these asks for, are not in glibc.
ANALYZE = (
    "--checks=-*,clang-analyzer-*,"
    "-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling"
)


def clang_tidy(source: str, analyze: bool) -> list[str]:
    """The command that checks one C file, with the flags of setup.py or of its tests' Makefile."""
    shipped = source.startswith(("src/", "ring/", "redis_module/"))
    checks = [ANALYZE] if analyze else []
    helpers = ["-Itests/core/support", "-Itests/fuzz/support"]
    if source.startswith("tests/threads/"):  # its Python.h is found before the real one
        helpers += ["-Itests/threads/python", "-Itests/threads", "-Isrc/binding"]
    build = ["-std=c11"] if shipped else ["-std=gnu11", "-DMC_TEST", *helpers]
    python = f"-isystem{sysconfig.get_paths()['include']}"
    return [
        "clang-tidy",
        "--quiet",
        *checks,
        source,
        "--",
        "-DMC_DEBUG",
        "-Isrc",
        "-Iring",
        "-Iredis_module",
        python,
        *build,
    ]


def commands(analyze: bool) -> dict[str, list[str]]:
    """Name of each linter -> the command that runs it from the root."""
    tidy = {
        f"clang-tidy {source}": clang_tidy(source, analyze)
        for source in c_files(*OWN_C, "tests/*/*.c", "tests/*/*/*.c")
    }
    if analyze:
        return tidy
    every_c = c_files(*OWN_C_AND_H, "tests/*/*.[ch]", "tests/*/*/*.[ch]")
    return {
        "clang-format": ["clang-format", "--dry-run", "--Werror", *every_c],
        "ruff check": ["ruff", "check"],
        "ruff format": ["ruff", "format", "--check"],
        "mypy": ["mypy"],
        **tidy,
    }


def run(name: str, command: list[str]) -> bool:
    """Runs one linter; prints its output only when it failed. True when it passed."""
    begun = time.monotonic()
    result = subprocess.run(
        [str(TOOLS / command[0]), *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    passed = result.returncode == 0
    verdict = "ok" if passed else "FAILED"
    output = "" if passed else f"\n{result.stdout.rstrip()}"
    print(f"lint: {name}: {verdict} in {time.monotonic() - begun:.1f} s{output}", flush=True)
    return passed


def main() -> None:
    """Runs all linters, two at a time; exits with 1 when one found something."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        tools = commands(analyze=sys.argv[1:] == ["--analyze"])
        passed = list(pool.map(run, tools, tools.values()))
    failed = passed.count(False)
    print(f"lint: {len(passed) - failed} of {len(passed)} passed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
