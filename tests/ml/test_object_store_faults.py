"""Writers on an object store that die, pause, meet each other and lose their answers, with readers looking on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from object_store_places import fresh_url, plain_rows, warehouse_at
from test_warehouse_faults import DAY, PROJECT, ROWS, version

from ml.errors import HemlineError
from ml.transient import is_transient
from ml.warehouse.bucket import StoreError
from ml.warehouse.heads import LeaseLostError

POINTS = ["checked", "uploaded", "visible", "committed", "deleted"]
LEAF = f"recommendations/date={DAY}/category=Clothing"


def publish(warehouse, number):
    return warehouse.publish("recommendations", version(number), date=DAY, category="Clothing")


def published(warehouse):
    """The one version that ours reads."""
    rows = warehouse.read("recommendations", ["model_version"], date=DAY, category="Clothing")
    assert rows.num_rows == ROWS
    (found,) = set(rows["model_version"].to_pylist())
    return int(found)


def leftovers(server, url):
    """Keys of the partition beyond its one file, and unfinished uploads."""
    return len(server.keys(url, LEAF)) - 1, len(server.uploads())


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {places!r}
from s3_server import S3Server
from object_store_places import warehouse_at
from test_warehouse_faults import DAY, version

endpoint, url, local, number, deadly = sys.argv[1:]

def at(point):
    if point == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

warehouse = warehouse_at(S3Server(endpoint), url, Path(local), at)
warehouse.publish("recommendations", version(int(number)), date=DAY, category="Clothing")
"""


def kill_writer(server, url, local, number, point):
    code = KILLED.replace("{places!r}", repr([str(PROJECT / "tests"), str(PROJECT / "tests" / "ml")]))
    child = subprocess.run(
        [sys.executable, "-c", code, server.endpoint, url, str(local), str(number), point],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_anywhere_leaves_old_or_new_and_a_rerun_ends_the_same(s3, tmp_path, point):
    url, own = fresh_url(), tmp_path / "own"
    publish(warehouse_at(s3, url, own), 1)
    kill_writer(s3, url, own, 2, point)
    reader = warehouse_at(s3, url, tmp_path / "reader")
    done = point in ("committed", "deleted")
    assert published(reader) == (2 if done else 1)
    window = {"visible", "committed"}  # as docs/operations.md says
    both, one = {"1": ROWS, "2": ROWS}, {"2" if done else "1": ROWS}
    assert plain_rows(s3, url) == (both if point in window else one)
    again = publish(warehouse_at(s3, url, own, lease_seconds=3600), 2)
    assert again.changed is not done, "at once: the lease was of a dead process of this machine"
    assert published(reader) == 2 and plain_rows(s3, url) == {"2": ROWS} and leftovers(s3, url) == (0, 0)
    assert not [path for path in own.glob("_staging/*/*") if path.parent.name != "_outgoing"]


def test_a_dead_writers_lease_times_out_for_other_machines(s3, tmp_path):
    url = fresh_url()
    publish(warehouse_at(s3, url, tmp_path / "a"), 1)
    kill_writer(s3, url, tmp_path / "a", 2, "visible")
    with pytest.raises(HemlineError, match=r"another machine has been publishing.*Wait for it or stop it"):
        publish(warehouse_at(s3, url, tmp_path / "b", lease_seconds=3600, wait_seconds=0.3), 3)
    started = time.monotonic()
    assert publish(warehouse_at(s3, url, tmp_path / "b", lease_seconds=1), 3).changed
    assert time.monotonic() - started >= 1
    assert plain_rows(s3, url) == {"3": ROWS} and leftovers(s3, url) == (0, 0)


@pytest.mark.parametrize("point", ["uploaded", "visible"])
def test_a_writer_that_was_taken_for_dead_cannot_publish(s3, tmp_path, point):
    """It pauses, another machine takes over and publishes, and it goes on."""
    url, paused, go_on, errors = fresh_url(), threading.Event(), threading.Event(), []
    publish(warehouse_at(s3, url, tmp_path / "b"), 1)

    def at(reached):
        if reached == point:
            paused.set()
            go_on.wait(60)

    def slow():
        try:
            publish(warehouse_at(s3, url, tmp_path / "a", at, lease_seconds=1), 2)
        except HemlineError as error:
            errors.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    assert paused.wait(60)
    publish(warehouse_at(s3, url, tmp_path / "b", lease_seconds=1), 3)
    go_on.set()
    thread.join()
    assert [type(error) for error in errors] == [LeaseLostError] and "took this partition over" in str(errors[0])
    assert published(warehouse_at(s3, url, tmp_path / "c")) == 3
    assert plain_rows(s3, url) == {"3": ROWS} and leftovers(s3, url) == (0, 0)


def test_a_long_upload_keeps_its_lease(s3, tmp_path):
    """Signs of life between parts: the other machine waits, though the upload takes longer than the lease."""
    url, order = fresh_url(), []
    writer = warehouse_at(s3, url, tmp_path / "a", lambda point: order.append(f"a {point}"), lease_seconds=2)
    upload = writer.store._bucket.upload

    def slow_upload(path, key, after_part):
        def part():
            for _ in range(8):
                time.sleep(0.5)
                after_part()

        return upload(path, key, part)

    writer.store._bucket.upload = slow_upload
    thread = threading.Thread(target=lambda: publish(writer, 1))
    thread.start()
    while not s3.keys(url, "_heads/recommendations"):
        time.sleep(0.05)
    publish(warehouse_at(s3, url, tmp_path / "b", lambda point: order.append(f"b {point}"), lease_seconds=2), 2)
    thread.join()
    assert order.index("a committed") < order.index("b uploaded")
    assert published(warehouse_at(s3, url, tmp_path / "c")) == 2 and leftovers(s3, url) == (0, 0)


def test_writers_of_several_machines_take_turns(s3, tmp_path):
    """Four machines: none uploads while another holds the lease, and one of their versions is there in the end."""
    url, inside, overlaps, errors = fresh_url(), [], [], []

    def at(point):
        if point == "uploaded":
            overlaps.append(len(inside))
            inside.append(1)
        elif point == "visible":
            time.sleep(0.05)
            inside.pop()

    def write(number):
        try:
            publish(warehouse_at(s3, url, tmp_path / str(number), at), number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and overlaps == [0] * 4
    assert plain_rows(s3, url) == {str(published(warehouse_at(s3, url, tmp_path / "r"))): ROWS}
    assert leftovers(s3, url) == (0, 0)


LOST = {
    "lease": lambda method, path, point: method == "PUT" and "head.json" in path,
    "renewal": lambda method, path, point: method == "PUT" and "head.json" in path and point == "uploaded",
    "commit": lambda method, path, point: method == "PUT" and "head.json" in path and point == "visible",
    "upload begun": lambda method, path, point: method == "POST" and path.endswith("?uploads"),
    "part": lambda method, path, point: method == "PUT" and "partNumber" in path,
    "completion": lambda method, path, point: method == "POST" and "uploadId" in path,
    "deletion": lambda method, path, point: method == "DELETE" and path.endswith(".parquet?"),
    "listing": lambda method, path, point: method == "GET" and "list-type" in path,
}


@pytest.mark.parametrize(
    ("what", "step"), [*(("lose answer", step) for step in LOST), ("lose request", "lease"), ("lose request", "commit")]
)
def test_a_request_whose_outcome_is_unknown_is_found_out(s3, tmp_path, monkeypatch, step, what):
    """The store did it and the answer got lost, or it never came: published once, nothing left, no error."""
    url, lost, points = fresh_url(), [], [""]

    def at(point):
        points.append(point)
        if point == "uploaded" and step == "renewal":
            time.sleep(0.4)  # a sign of life is due

    def fault(method, path):
        if lost or not LOST[step](method, path, points[-1]):
            return None
        lost.append(path)
        return what

    warehouse = warehouse_at(s3, url, tmp_path / "a", at, lease_seconds=1 if step == "renewal" else 60)
    publish(warehouse, 1)
    monkeypatch.setattr(s3, "fault", fault)
    assert publish(warehouse, 2).changed
    assert lost, "the fault happened"
    assert published(warehouse_at(s3, url, tmp_path / "b")) == 2
    assert plain_rows(s3, url) == {"2": ROWS}
    known = len(s3.uploads()) - (step == "upload begun")  # nobody knows that upload's id
    assert len(s3.keys(url, LEAF)) == 1 and known <= 0
    assert not publish(warehouse, 2).changed
    assert leftovers(s3, url) == (0, 0)


@pytest.mark.parametrize(("what", "published_then"), [("lose answer", 2), ("lose request", 1)])
def test_a_commit_whose_outcome_stays_unknown_is_a_passing_error_that_a_rerun_mends(
    s3, tmp_path, monkeypatch, what, published_then
):
    url, committing = fresh_url(), threading.Event()
    publish(warehouse_at(s3, url, tmp_path / "a"), 1)
    monkeypatch.setattr(s3, "fault", lambda method, path: what if committing.is_set() and "head.json" in path else None)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    writer = warehouse_at(s3, url, tmp_path / "a", lambda point: committing.set() if point == "visible" else None)
    with pytest.raises(StoreError, match="no answer from") as caught:
        publish(writer, 2)
    assert is_transient(caught.value)
    committing.clear()
    reader = warehouse_at(s3, url, tmp_path / "b")
    assert published(reader) == published_then
    assert publish(warehouse_at(s3, url, tmp_path / "a"), 2).changed is (published_then == 1)
    assert published(reader) == 2 and plain_rows(s3, url) == {"2": ROWS} and leftovers(s3, url) == (0, 0)


def test_readers_in_a_loop_see_whole_versions(s3, tmp_path):
    """Ours sees one version, always; a plain glob one, or in the window the old and the new, or fails loudly."""
    url, stop = fresh_url(), threading.Event()
    writer = warehouse_at(s3, url, tmp_path / "a")
    publish(writer, 0)
    ours, plain, loud, wrong = [], [], [], []

    def read_ours():
        reader = warehouse_at(s3, url, tmp_path / "b", keep_seconds=0)
        while not stop.is_set():
            try:
                ours.append(published(reader))
            except Exception as error:
                wrong.append(error)

    def read_plain():
        while not stop.is_set():
            try:
                plain.append(plain_rows(s3, url))
            except OSError as error:
                loud.append(error)

    threads = [threading.Thread(target=read) for read in (read_ours, read_plain)]
    for thread in threads:
        thread.start()
    for number in range(1, 12):
        publish(writer, number)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [], [str(e) for e in (*wrong, *loud)][:3]
    assert ours == sorted(ours) and len(set(ours)) > 1, "never back to an older one"
    assert plain and all(set(seen.values()) == {ROWS} for seen in plain), "whole versions"
    versions = [sorted(map(int, seen)) for seen in plain]
    assert all(found in ([found[0]], [found[0], found[0] + 1]) for found in versions), "the old and the new at most"


def test_a_lost_local_folder_changes_nothing(s3, tmp_path):
    """The store is the truth: another machine, or this one after its disk was wiped, goes on."""
    import shutil

    url, local = fresh_url(), tmp_path / "a"
    publish(warehouse_at(s3, url, local), 1)
    shutil.rmtree(local)
    warehouse = warehouse_at(s3, url, Path(local))
    assert published(warehouse) == 1 and not publish(warehouse, 1).changed and publish(warehouse, 2).changed
