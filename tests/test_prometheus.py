"""Metrics: their names and values, one process and several, and nothing counted twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.caches import fill

import mmapcache

prometheus_client = pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from mmapcache.prometheus import Collector  # noqa: E402

Samples = dict[str, dict[tuple[str, ...], float]]


def scrape(collector: Collector) -> Samples:
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    return parse(prometheus_client.generate_latest(registry).decode())


def parse(text: str) -> Samples:
    """Name to values of labels to value; each sample is there once."""
    samples: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("mmapcache_"):
            continue
        assert family.documentation.endswith("."), family
        for sample in family.samples:
            labels = tuple(sample.labels.values())
            assert labels not in samples[sample.name], sample
            samples[sample.name][labels] = sample.value
    return samples


def test_everything_that_a_cache_knows(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": 1}, {"_id": 2})
    fill(writer, "flags", {"_id": 1})
    writer.report(
        state="streaming",
        source="mongodb://user:hunter2@db/",
        confirmed=True,
        following=True,
        position_at=1000.5,
        events=7,
        disconnects=2,
        loads={"initial": 1, "verify": 3},
        errors={"net\nwork": 4},
    )
    cache = writer.reader()
    for _ in range(5):
        cache["sites"].get(1)
    cache["sites"].get(3)
    samples = scrape(Collector(cache))
    stats, status = cache.stats(), cache.status()
    plain = {name: values[()] for name, values in samples.items() if () in values}
    assert plain.pop("mmapcache_age_seconds") >= 0
    assert plain.pop("mmapcache_lag_seconds") >= 0
    assert plain == {
        "mmapcache_up": 1,
        "mmapcache_generation": 2,
        "mmapcache_published_timestamp_seconds": status["published_at"],
        "mmapcache_confirmed_timestamp_seconds": status["confirmed_at"],
        "mmapcache_position_timestamp_seconds": 1000.5,
        "mmapcache_collections": 2,
        "mmapcache_used_bytes": stats["bytes_used"],
        "mmapcache_free_bytes": stats["bytes_free"],
        "mmapcache_largest_free_bytes": stats["largest_free"],
        "mmapcache_file_bytes": stats["file_size"],
        "mmapcache_max_bytes": stats["max_size"],
        "mmapcache_huge_page_bytes": stats["huge_bytes"],
        "mmapcache_loader_alive": 1,
        "mmapcache_loader_failing": 0,
        "mmapcache_source_events_total": 7,
        "mmapcache_source_disconnects_total": 2,
        "mmapcache_front_cache_entries": 2,  # a document, and that another is not there
        "mmapcache_front_cache_bytes": stats["front_cache"]["bytes"],
        "mmapcache_front_cache_hits_total": 4,
        "mmapcache_front_cache_misses_total": stats["front_cache"]["misses"],
        "mmapcache_front_cache_revalidations_total": 0,
        "mmapcache_front_cache_evictions_total": 0,
    }
    assert samples["mmapcache_documents"] == {("sites",): 2, ("flags",): 1}
    catalogue = cache.catalogue()
    assert samples["mmapcache_collection_content_bytes"] == {
        (name,): catalogue[name]["bytes"] for name in ("sites", "flags")
    }
    assert samples["mmapcache_loads_total"] == {("initial",): 1, ("verify",): 3}
    assert samples["mmapcache_loader_errors_total"] == {(r"net\nwork",): 4}
    assert samples["mmapcache_loader_state"] == {("streaming",): 1}
    (known,) = samples["mmapcache_info"]
    assert sorted(known) == sorted([status["path"], status["file_id"], "mongodb://db"])
    assert len(samples) == len(plain) + 2 + 6


def test_a_cache_that_cannot_be_read_is_down(writer: mmapcache.Writer, cache_path: Path) -> None:
    """Others are given all the same; a function is asked each time."""
    open_ = [lambda: mmapcache.open(cache_path)]
    with writer.reader() as cache:
        collector = Collector({"late": lambda: open_[0](), "here": cache})
        assert scrape(collector)["mmapcache_up"] == {("late",): 0, ("here",): 1}
        fill(writer, "sites", {"_id": 1})
        samples = scrape(collector)
        assert samples["mmapcache_up"] == {("late",): 1, ("here",): 1}
        assert set(samples["mmapcache_documents"].values()) == {1}
    assert scrape(collector)["mmapcache_up"] == {("late",): 1, ("here",): 0}
    open_[0] = lambda: mmapcache.open(cache_path.parent)  # an OSError: it is no file
    assert scrape(collector) == {"mmapcache_up": {("late",): 0, ("here",): 0}}


def test_a_second_collector_is_refused(writer: mmapcache.Writer) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector(writer.reader()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(writer.reader()))


def test_without_the_front_cache(writer: mmapcache.Writer) -> None:
    samples = scrape(Collector(writer.reader(), front_cache=False))
    assert "mmapcache_up" in samples
    assert not [name for name in samples if "front" in name]


# A master that reads, workers that read differently often, and one of them answers the scrape.
WORKERS = """
import os, sys
import mmapcache
from mmapcache.prometheus import Collector
from prometheus_client import generate_latest

cache = mmapcache.open(sys.argv[1])
collector = Collector(cache)
registry = collector.registry()
assert collector.registry() is registry

def read(hits):
    for _ in range(1 + hits):
        cache["sites"][1]

read(1000)
collector.update()
for hits in (10, 20):
    child = os.fork()
    if child == 0:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # the parent's are not counted again
            assert registry.get_sample_value("mmapcache_front_cache_hits_total") == 0
        cache["sites"][1]  # in the front cache since the fork: a hit
        cache["flags"][hits]  # not there: a miss
        read(hits - 2)
        collector.update()
        collector.update()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
generate_latest(registry)  # a second scrape gives the same
sys.stdout.buffer.write(generate_latest(registry))
"""


@pytest.mark.parametrize("many", [False, True])
def test_workers(writer: mmapcache.Writer, cache_path: Path, tmp_path: Path, many: bool) -> None:
    """With PROMETHEUS_MULTIPROC_DIR the front caches are summed, and the file is given once;
    without it the process gives its own."""
    fill(writer, "sites", {"_id": 1})
    fill(writer, "flags", {"_id": 10}, {"_id": 20})
    environment = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    if many:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(cache_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    samples = parse(done.stdout)
    assert samples["mmapcache_front_cache_hits_total"] == {(): 1030 if many else 1000}
    assert samples["mmapcache_front_cache_misses_total"] == {(): 3 if many else 1}
    assert samples["mmapcache_generation"] == {(): 2}
    assert samples["mmapcache_documents"] == {("sites",): 1, ("flags",): 2}
    assert samples["mmapcache_up"] == {(): 1}


def test_the_page_names_every_metric(writer: mmapcache.Writer) -> None:
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    counters = {"counter": "_total"}
    metrics = Collector(writer.reader()).describe()
    assert {metric.name + counters.get(metric.type, "") for metric in metrics} == set(
        re.findall(r"`(mmapcache_\w+)`", page)
    )
