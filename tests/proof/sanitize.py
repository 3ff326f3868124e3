#!/usr/bin/env python3
"""`make sanitize`: the tests of the binding under AddressSanitizer and UndefinedBehaviorSanitizer.

    tests/proof/sanitize.py                       all test files but those of LEFT_OUT
    tests/proof/sanitize.py tests/test_keys.py -x any arguments of pytest instead
    tests/proof/sanitize.py --threads             those of THREADS under ThreadSanitizer

Builds the package into build/sanitize, with assertions and the core's structure checks, and runs
pytest from there, so that neither the working tree's own build nor any other is found first. The
first finding ends the process in which it is, which its test then reports. Python's small
allocations go to malloc, where the sanitizer sees each. Needs gcc with its libasan, and the
packages of the extra `test` in the interpreter that runs this.

ThreadSanitizer watches a stock interpreter, too: it sees the GIL as the mutex and condition that it
is made of, and every access of the extension's own code. Nothing is suppressed. A race in memory of
Python's that Python alone touches is not seen, as the interpreter is not built for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Both may run at the same time.
BUILD = ROOT / "build" / ("sanitize-threads" if "--threads" in sys.argv else "sanitize")
LIB = BUILD / "lib"
THREADS = ("test_thread_stress.py",)

# Not the extension's business, or not what a sanitizer can watch; a * stands for anything.
LEFT_OUT = {
    "test_benchmarks.py": "the table of figures, in Python",
    "test_cli.py": "the commands are Python; each run starts an interpreter",
    "test_cli_extjson.py": "the same",
    "test_demo_*.py": "the demo's own programs",
    "test_deploy.py": "files to copy, and programs that are Python",
    "test_docs.py": "reads pages",
    "test_frameworks.py": "servers start programs without the sanitizer",
    "test_gap_judge.py": "the tests' own programs",
    "test_host.py": "limits of memory, of which the sanitizer alone takes more",
    "test_hostile_text.py": "the commands are Python",
    "test_leaks.py": "resident memory, of which the sanitizer keeps what was freed",
    "test_lint.py": "reads sources",
    "test_live_*.py": "the daemon is Python; what C cuts out of replies, test_sync_reply.py has",
    "test_nomemory.py": "its own malloc stands where the sanitizer's does",
    "test_packaging.py": "builds and installs packages",
    "test_platforms.py": "the same",
    "test_probes.py": "the commands are Python",
    "test_proof_results.py": "reads pages",
    "test_readme.py": "runs the commands of the documentation",
    "test_scripted_oplog.py": "the tests' own programs",
    "test_secrets.py": "the commands are Python",
    "test_serve.py": "the server of the status page is Python",
    "test_servers.py": "uWSGI and gunicorn start programs without the sanitizer",
    "test_service.py": "the example of a service, in Python",
    "test_share.py": "reads what the parsers say",
    "test_status_page.py": "a page in a browser",
    "test_streams.py": "the commands are Python",
    "test_stubs.py": "runs mypy",
    "test_sync*.py": "the daemon is Python",
    "test_troubleshooting.py": "reads pages",
    "test_tutorial.py": "runs the commands of the documentation",
    "test_warm.py": "the tests' own programs",
    "test_wire_proxy.py": "the same",
}
# Of those the ones that are its business.
KEPT = ("test_sync_pace.py", "test_sync_reply.py")
# What concerns the ring's extension; its module: make redis-module-proof.
RING = ("ring/test_entry.py", "ring/test_placement.py")

# Leaks: CPython itself does not free everything at its end; for ours there are test_leaks.py,
# test_nomemory.py and the core's tests under the same sanitizers. SIGBUS: the guard handles it, and
# its tests expect that what is not ours ends the process by that signal. A huge allocation is
# refused with NULL, as malloc does, and ends nothing.
ASAN = "detect_leaks=0:handle_sigbus=0:abort_on_error=1:allocator_may_return_null=1"
UBSAN = "print_stacktrace=1:halt_on_error=1"
TSAN = "halt_on_error=1:history_size=4"


def build(threads: bool) -> None:
    """Builds the package with its sanitized extension; whole, as flags are no dependency."""
    shutil.rmtree(BUILD, ignore_errors=True)
    places = [f"--build-lib={LIB}", f"--build-temp={BUILD / 'temp'}"]
    command = ["setup.py", "--quiet", "build", *places]
    flags = {"MMAPCACHE_SANITIZE": "address,undefined", "MMAPCACHE_DEBUG": "1"}
    if threads:  # the structure checks would take minutes; the map is read by atomic loads
        flags = {"MMAPCACHE_SANITIZE": "thread", "CFLAGS": "-DMC_TSAN"}
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env={**os.environ, **flags})


def environment(threads: bool) -> dict[str, str]:
    """What an interpreter needs so that it finds the sanitized extension and can load it."""
    library = "libtsan.so" if threads else "libasan.so"
    runtime = subprocess.run(
        ["gcc", f"-print-file-name={library}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return {
        **os.environ,
        "ASAN_OPTIONS": ASAN,
        "TSAN_OPTIONS": TSAN,
        "UBSAN_OPTIONS": UBSAN,
        "LD_PRELOAD": runtime,
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(LIB),
    }


def prove_it_sees(env: dict[str, str], mark: bytes) -> None:
    """Fails unless the extension that pytest will get is the sanitized one."""
    script = "import mmapcache._mmapcache as m; print(m.__file__)"
    command = [sys.executable, "-c", script]
    found = subprocess.run(
        command, cwd=BUILD, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()
    symbols = Path(found).read_bytes()
    if LIB not in Path(found).parents or mark not in symbols:
        raise SystemExit(f"sanitize: {found} is not the sanitized build")


def watched() -> list[str]:
    """The test files of both extensions; fails where a name of LEFT_OUT or KEPT is no file's."""
    tests = ROOT / "tests"
    for name in (*LEFT_OUT, *KEPT):
        if not any(tests.glob(name)):
            raise SystemExit(f"sanitize: there is no tests/{name}: take it out of the lists")
    left = {path.name for name in LEFT_OUT for path in tests.glob(name)}.difference(KEPT)
    found = [path for path in sorted(tests.glob("test_*.py")) if path.name not in left]
    return [str(path) for path in (*found, *(tests / name for name in RING))]


def main() -> int:
    """Builds, runs pytest, says what was left out; pytest's exit status."""
    if shutil.which("gcc") is None:
        raise SystemExit("sanitize: gcc is missing: apt-get install gcc libc6-dev")
    begun = time.monotonic()
    threads = "--threads" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--threads"]
    build(threads)
    env = environment(threads)
    prove_it_sees(env, b"__tsan_init" if threads else b"__asan_init")
    print(f"sanitize: built in {time.monotonic() - begun:.0f} s", flush=True)
    chosen = [str(ROOT / word) if (ROOT / word).exists() else word for word in arguments]
    if threads and not chosen:
        chosen = [str(ROOT / "tests" / name) for name in THREADS]
    elif not chosen:
        chosen = watched()
        for name, why in LEFT_OUT.items():
            print(f"sanitize: {name} is left out: {why}")
    # ThreadSanitizer wants its places in the address space, which random addresses may take.
    prefix = ["setarch", "-R"] if threads else []
    pytest = [*prefix, sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    pytest += [f"--rootdir={ROOT}", "-p", "no:cacheprovider", "-o", "timeout=300"]
    return subprocess.run([*pytest, *chosen], cwd=BUILD, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
