"""What deploy/ has to copy is right, and the loader tells a service manager what it should."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.loader import Loader, load_once, wait_for
from support.one_file import ONE, flags
from support.schemas import COMPOSE, KINDS, META, wrong
from support.tools import tool

import mmapcache
from mmapcache.cli import parser_for
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.service import Service

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "mmapcache.service"
AGENT = DEPLOY / "systemd" / "mmapcache-ring-agent.service"
SECRET = "hunter2secret"
UNREACHABLE = f"mongodb://ann:{SECRET}@127.0.0.1:1/?serverSelectionTimeoutMS=100"
MIB = 1 << 20


# --- what a service manager is told ---------------------------------------------------------------


class Manager:
    """The socket of a service manager, and what it was told.

    :param address: as NOTIFY_SOCKET has it
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def environment(self, watchdog: float) -> dict[str, str]:
        """:param watchdog: seconds"""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": f"{watchdog * 1e6:.0f}"}

    def lines(self) -> list[str]:
        """All lines of all messages so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self._socket.recv(65536).decode().split("\n")
        return self.heard

    def has(self, beginning: str) -> bool:
        return any(line.startswith(beginning) for line in self.lines())

    def expect(self, beginning: str) -> None:
        """Waits for a line."""
        try:
            wait_for(lambda: self.has(beginning))
        except AssertionError:
            raise AssertionError(f"no {beginning!r} in {self.heard}") from None

    def expect_beats(self, more: int) -> None:
        """Waits for so many signs of life from now on."""
        many = self.lines().count("WATCHDOG=1") + more
        wait_for(lambda: self.lines().count("WATCHDOG=1") >= many)

    def fill(self) -> None:
        """Nothing more fits into its queue, from whomever."""
        sent = 1
        while sent:
            sent = 0
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line,
                contextlib.suppress(BlockingIOError),
            ):
                while line.sendto(b"FULL=1", self.address):
                    sent += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(cache_path: Path) -> Iterator[Manager]:
    made = Manager(str(cache_path.with_name("notify")))
    yield made
    made.close()


@pytest.mark.usefixtures("warm_loaders")
@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_ready_says_how_it_goes_and_that_it_ends(
    cache_path: Path, source: Path, *, abstract: bool
) -> None:
    name = str(cache_path.with_name("notify"))
    with contextlib.closing(Manager("@" + name if abstract else name)) as manager:
        with Loader(cache_path, flags(source), manager.environment(0.2)) as loader:
            manager.expect("READY=1")
            manager.expect("STATUS=polling from file:")
            manager.expect_beats(3)  # it sleeps for an hour, and is alive
            source.write_bytes(b"nonsense")
            loader.signal(signal.SIGHUP)
            manager.expect("STATUS=degraded: ")
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
        told = manager.lines()
        assert told[-1] == "STOPPING=1"
        assert told.count("READY=1") == 1
        before, after = told[: told.index("READY=1")], told[told.index("READY=1") :]
        assert "EXTEND_TIMEOUT_USEC=300000000" in before
        assert not any(line.startswith("EXTEND") for line in after)


@pytest.mark.usefixtures("warm_loaders")
@pytest.mark.parametrize("resumed", [False, True])
def test_it_is_ready_without_its_source_if_there_is_a_generation(
    cache_path: Path, source: Path, manager: Manager, *, resumed: bool
) -> None:
    pytest.importorskip("pymongo")
    if resumed:
        assert load_once(cache_path, flags(source))[0] == 0
    arguments = ["--collection=shop.sites"]
    environment = {"MMAPCACHE_URI": UNREACHABLE, **manager.environment(0.2)}
    with Loader(cache_path, arguments, environment):
        manager.expect("STATUS=degraded: ")
        manager.expect_beats(3)
        told = manager.lines()
        assert ("READY=1" in told) == resumed
        assert not any(SECRET in line or "ann" in line for line in told)


@pytest.mark.usefixtures("warm_loaders")
def test_a_standby_is_ready_when_it_waits(cache_path: Path, source: Path, manager: Manager) -> None:
    with Loader(cache_path, flags(source)) as first:
        first.expect("generation 1:")
        with Loader(cache_path, flags(source, "--standby"), manager.environment(0.2)):
            manager.expect(f"STATUS=another loader holds {cache_path}: standing by")
            assert "READY=1" in manager.lines()
            manager.expect_beats(3)
            first.process.kill()
            manager.expect("STATUS=polling from file:")


@pytest.mark.usefixtures("warm_loaders")
@pytest.mark.parametrize("full", [False, True])
def test_a_socket_that_takes_nothing_stops_nothing(
    cache_path: Path, source: Path, *, full: bool
) -> None:
    address = str(cache_path.with_name("notify"))
    manager = Manager(address) if full else None
    if manager is not None:
        manager.fill()
    with Loader(cache_path, flags(source), {"NOTIFY_SOCKET": address}) as loader:
        loader.expect("generation 1:")
        source.write_bytes(ONE + ONE.replace(b"\x01", b"\x02"))
        loader.signal(signal.SIGHUP)
        loader.expect("generation 2:")
        assert loader.output.count("the service manager cannot be told") == 1
        with contextlib.closing(manager or Manager(address)) as manager:
            manager.expect("READY=1")  # what was not said is said later
            manager.expect("STATUS=polling from file:")


@pytest.mark.usefixtures("warm_loaders")
def test_a_main_thread_that_is_stuck_is_silent(
    cache_path: Path, source: Path, manager: Manager
) -> None:
    stuck, go = cache_path.with_name("stuck"), cache_path.with_name("go")
    cache_path.with_name("shapes.py").write_text(
        "import pathlib, time\n"
        "def wait(document):\n"
        f"    pathlib.Path({str(stuck)!r}).touch()\n"
        f"    while not pathlib.Path({str(go)!r}).exists():\n"
        "        time.sleep(0.01)\n"
        "    return document\n"
    )
    environment = {"PYTHONPATH": str(cache_path.parent), **manager.environment(0.02)}
    with Loader(cache_path, flags(source, "--transform=shapes:wait"), environment):
        wait_for(stuck.exists)
        before = len(manager.lines())
        threading.Event().wait(0.3)  # 30 signs of life of a thread of its own
        assert len(manager.lines()) == before
        go.touch()
        manager.expect("READY=1")
        manager.expect_beats(3)


def test_waiting_for_a_source_is_a_life(manager: Manager) -> None:
    inbox = Inbox(Service.of(manager.environment(0.02)))

    def post() -> None:
        manager.expect_beats(5)
        inbox.post("at last")

    thread = threading.Thread(target=post)
    thread.start()
    assert inbox.receive() == "at last"
    assert inbox.receive(0.05) is None
    thread.join()


def test_what_the_variables_say(manager: Manager) -> None:
    asked = manager.environment(0.02)
    for other in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        assert Service.of(other).quiet
    for odd in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-5"}):
        Service.of(asked | odd).beat()
        assert "WATCHDOG=1" not in manager.lines()
    service = Service.of(asked)
    service.tell({"state": "degraded", "error": "a\nREADY=1 " + "x" * 5000}, lambda: 0)
    told = wait_for(lambda: [line for line in manager.lines() if line.startswith("STATUS")])
    assert "READY=1" not in manager.lines()
    assert told[0].startswith("STATUS=degraded: a\\nREADY=1 xxx")
    assert len(told[0]) < 1100


# --- what a unit and containers run ---------------------------------------------------------------


def of_unit() -> dict[str, list[str]]:
    """By name, the values of the unit's settings."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def parsed(words: list[str]) -> None:
    """The command's own parser takes them."""
    assert Path(words[0]).name == "mmapcache"
    parser_for(words[1], every=True).parse_args(words[1:])


def documents(path: str) -> list[Any]:
    """Of a YAML file; twice the same key in a mapping is an error."""

    class Strict(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}: {keys}"
            made: dict[Any, Any] = super().construct_mapping(node, deep)
            return made

    return list(yaml.load_all((DEPLOY / path).read_text("utf-8"), Strict))


def printed_config(arguments: list[str], environment: Mapping[str, str]) -> str:
    """What `mmapcache sync --print-config` makes of options."""
    done = subprocess.run(
        [sys.executable, "-m", "mmapcache", "sync", *arguments, "--print-config"],
        capture_output=True, text=True, timeout=60, check=False, env={**environment}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def size(text: str) -> int:
    """Bytes, as Kubernetes, systemd and Compose write them."""
    match = re.fullmatch(r"(\d+)([MmGg])i?B?", text)
    assert match is not None, text
    return int(match[1]) * MIB * (1024 if match[2] in "Gg" else 1)


def test_the_unit_is_what_the_loader_does() -> None:
    unit = of_unit()
    parsed(shlex.split(unit["ExecStart"][0]))
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"] == ["2min"]
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0], "nobody could be told"
    assert "ProcSubset" not in unit, "the loader reads which boot this is"
    (line,) = (
        line.split()
        for line in (DEPLOY / "systemd/mmapcache.tmpfiles.conf").read_text("utf-8").splitlines()
        if not line.startswith("#")
    )
    user, group, mode = unit["User"][0], unit["Group"][0], unit["RuntimeDirectoryMode"][0]
    assert line == ["d", "/run/mmapcache", mode, user, group, "-"]


def test_the_unit_of_the_rings_agent_runs_what_there_is() -> None:
    """And what confines the loader confines it."""
    loader, agent = (path.read_text("utf-8") for path in (UNIT, AGENT))
    (started,) = re.findall(r"^ExecStart=(.*)$", agent, re.MULTILINE)
    parsed(started.split())
    confining = re.findall(
        r"^(?:Protect|Private|Restrict\w+(?<!PreventExitStatus)|System|NoNew|Capab).*$",
        loader,
        re.MULTILINE,
    )
    assert len(confining) > 15
    assert [line for line in confining if line not in agent] == []


@pytest.mark.parametrize("path", [UNIT, AGENT], ids=lambda path: str(path.stem))
@pytest.mark.parametrize("task", ["verify --man=no", "security --offline=true --threshold=20"])
def test_systemd_takes_the_unit(tmp_path: Path, task: str, path: Path) -> None:
    command = tool("systemd-analyze", "apt-get install systemd")
    unit = tmp_path / path.name
    unit.write_text(path.read_text("utf-8").replace("/opt/app/bin/mmapcache", "/bin/true"))
    done = subprocess.run(
        [command, *task.split(), str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("the systemd-analyze here is of before 250, which cannot do this")
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: name and the rest, continued lines together."""
    text = (DEPLOY / "docker/Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_made_as_it_should_be() -> None:
    """What hadolint looks for, where there is none, and what it cannot know."""
    found = instructions()
    of = dict(found)  # the last of each
    for name, rest in found:
        assert name in {
            *("FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"),
            "HEALTHCHECK",
        }
        if name == "FROM":
            assert re.fullmatch(r"\S+:\d[\w.-]+( AS \w+)?", rest), "a version, not `latest`"
        if name == "RUN":
            assert "sudo" not in rest
            wanted = ("apt-get update", "--no-install-recommends", "--yes", "rm -rf /var/lib/apt")
            assert "apt-get install" not in rest or all(word in rest for word in wanted)
            assert "pip install" not in rest or "--no-cache-dir" in rest
        if name == "COPY" and not rest.startswith("--from"):
            for word in rest.split()[:-1]:
                assert (ROOT / word).exists(), f"COPY {word}"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", of["USER"]), "a number other than root's"
    parsed([*json.loads(of["ENTRYPOINT"]), *json.loads(of["CMD"])])
    parsed(json.loads(of["HEALTHCHECK"].partition("CMD ")[2]))


def test_compose_runs_what_there_is() -> None:
    (compose,) = documents("docker/compose.yaml")
    assert wrong(compose, COMPOSE) == []
    assert wrong({"services": {"a": {"imge": "x", "volumes": "y"}}}, COMPOSE) == [
        ".services.a has no imge",
        ".services.a.volumes is no list",
    ]
    loader, service = compose["services"]["loader"], compose["services"]["service"]
    build = loader["build"]
    assert (DEPLOY / "docker" / build["context"] / build["dockerfile"]).is_file()
    of = dict(instructions())
    path = re.search(r"MMAPCACHE_PATH=(\S+)", of["ENV"])
    assert path is not None
    config = printed_config([], {**loader["environment"], "MMAPCACHE_PATH": path[1]})
    assert 'from = "shop.rate_limits"\nname = "limits"' in config
    options = compose["volumes"]["cache"]["driver_opts"]["o"]
    room = size(re.search(r"size=(\w+)", options)[1])  # type: ignore[index]
    assert room >= 2 * size(loader["environment"]["MMAPCACHE_MAX_SIZE"])
    assert size(loader["mem_limit"]) >= room + 256 * MIB
    assert size(of_unit()["MemoryMax"][0]) >= room + 256 * MIB
    user, group = of["USER"].split(":")
    assert f"uid={user},gid={group}," in options
    assert service["group_add"] == [group]
    for used in (loader, service):
        assert all(volume.split(":")[0] in compose["volumes"] for volume in used["volumes"])
    assert set(loader["secrets"]) == set(compose["secrets"])


def test_the_sidecar_is_what_kubernetes_takes(tmp_path: Path) -> None:
    found = {document["kind"]: document for document in documents("kubernetes/sidecar.yaml")}
    for kind, document in found.items():
        top = {"apiVersion": str, "kind": str, "metadata": META}
        assert wrong(document, {**top, **KINDS[kind]}) == []
    template = found["Deployment"]["spec"]["template"]
    wanted = found["Deployment"]["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
    pod = template["spec"]
    (loader,), volumes = pod["initContainers"], {v["name"]: v for v in pod["volumes"]}
    for container in (loader, *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        assert (container is loader) != next(
            mount.get("readOnly", False)
            for mount in container["volumeMounts"]
            if mount["name"] == "cache"
        ), "the loader writes, nobody else"
    assert "readinessProbe" not in loader, "it would be the pod's"
    parsed(["mmapcache", *loader["args"]])
    for probe in ("startupProbe", "livenessProbe"):
        parsed(loader[probe]["exec"]["command"])
    (name,) = found["ConfigMap"]["data"]
    (tmp_path / name).write_text(found["ConfigMap"]["data"][name])
    config = printed_config(["--config", str(tmp_path / name)], {})
    (limit,) = re.findall(r'^max_size = "(\w+)"', config, re.MULTILINE)
    room = size(volumes["cache"]["emptyDir"]["sizeLimit"])
    assert room >= 2 * size(limit)
    assert size(loader["resources"]["limits"]["memory"]) >= room + 256 * MIB
    for key in found["Secret"]["stringData"]:
        assert f'"/etc/mmapcache/secret/{key}"' in config


# --- what Prometheus and Grafana are given --------------------------------------------------------

METRICS = set(re.findall(r"`(mmapcache_\w+)`", (ROOT / "docs/metrics.md").read_text("utf-8")))
DURATION = r"\d+[smhdwy]"


def check_expression(text: str) -> None:
    """As far as can be seen without PromQL's own parser: names, brackets, ranges, words."""
    names = set(re.findall(r"\bmmapcache_\w+", text))
    assert names, text
    assert names <= METRICS, f"not in docs/metrics.md: {names - METRICS}"
    bare = re.sub(r'"[^"\n]*"', '""', text)
    assert '"' not in bare.replace('""', ""), f"a string without end: {text}"
    while (less := re.sub(r"\([^][(){}]*\)|\[[^][(){}]*\]|\{[^][(){}]*\}", "", bare)) != bare:
        bare = less
    assert not re.search(r"[][(){}]", bare), f"brackets: {text}"
    for span in re.findall(r"\[([^]]*)\]", text):
        assert re.fullmatch(rf"{DURATION}|\$__rate_interval", span), text
    for counted in re.findall(r"(?:increase|rate)\((\w+)", text):
        assert counted.endswith("_total") or counted == "mmapcache_generation", counted


def test_the_alerts_are_rules_on_metrics_that_there_are() -> None:
    (rules,) = documents("prometheus/mmapcache.rules.yaml")
    (group,) = rules["groups"]
    schema = {
        "alert": str,
        "expr": str,
        "for": str,
        "labels": {"severity": str},
        "annotations": {"summary": str, "description": str},
    }
    assert wrong(group, {"name": str, "rules": [schema]}) == []
    alerts = {rule["alert"]: rule for rule in group["rules"]}
    assert len(alerts) == len(group["rules"]) >= 8
    for rule in alerts.values():
        check_expression(rule["expr"])
        assert re.fullmatch(DURATION, rule.get("for", "1m"))
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        for text in rule["annotations"].values():
            for inner in re.findall(r"\{\{(.*?)\}\}", text):
                assert re.fullmatch(r" \$(labels\.instance|value \| humanize\w*) ", inner), text
    (tests,) = documents("prometheus/mmapcache.rules.test.yaml")
    for test in tests["tests"]:
        assert {case["alertname"] for case in test["alert_rule_test"]} <= alerts.keys()
        for series in test["input_series"]:
            check_expression(series["series"])


@pytest.mark.parametrize("text", ["mmapcache_upp", 'mmapcache_up{a="1"', "rate(mmapcache_up[5m])"])
def test_a_wrong_expression_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        check_expression(text)


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    board = json.loads((DEPLOY / "grafana/mmapcache.json").read_text("utf-8"))
    assert board["title"] == board["uid"] == "mmapcache"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not taken & cells, f"{panel['title']} lies over another one"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            check_expression(target["expr"])
            assert target["datasource"]["uid"] == "${datasource}"
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    for variable in board["templating"]["list"][1:]:
        check_expression(variable["definition"])


def test_the_readme_names_every_file() -> None:
    said = set(re.findall(r"`([\w/.-]+)`", (DEPLOY / "README.md").read_text("utf-8")))
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert {str(path.relative_to(DEPLOY)), path.name} & said, path
    assert mmapcache.__name__ in (DEPLOY / "README.md").read_text("utf-8")
