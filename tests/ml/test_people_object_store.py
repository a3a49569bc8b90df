"""A customer forgotten with the warehouse on an object store: in no object, no upload, no copy on this machine."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from model_registries import new_registry
from object_store_places import BUCKET, fresh_url, object_store, warehouse_at
from people_scan import findings
from people_shop import CANARY, DAYS, OTHER, forget_in, made, table

from ml.warehouse import Warehouse

LISTS = f"recommendations/date={DAYS[0]}/category=Hats"


class Killed(BaseException):
    """What no handler of errors tidies up after."""


def at_once(s3, url, local, on_point=lambda point: None):
    """A machine's warehouse, whose readers need no time to let go of an old version."""
    return Warehouse(object_store(s3, url, local), grace_seconds=0, on_point=on_point)


def lists(users):
    """A list for each of `users`."""
    rows = [{"user_id": user, "rank": 1, "item_id": "i", "score": 1.0, "source": "popular", "part": "popular",
             "listed_on": DAYS[0], "model_from_future": False} for user in users]  # fmt: skip
    return table("recommendations", rows)


def stored(s3, url, folder):
    """What the bucket holds of the warehouse, downloaded, and where the canary is in it."""
    for key in s3.keys(url):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        place = f"{url.removeprefix(f's3://{BUCKET}/')}/{key}"
        s3.client().download_file(BUCKET, place, str(path))
    return findings(folder, [CANARY])


@pytest.fixture
def shop(s3, tmp_path):
    """The shop of two on a store, as the machine sees it whose home lies at `home`."""
    url, home = fresh_url(), tmp_path / "home"
    home.mkdir()
    made(home, at_once(s3, url, home / "warehouse"), new_registry(home))
    return url, home


def kill_writers(s3, url, local):
    """Let a writer die at each point, each of another partition, and leave what it leaves."""

    def publish(point, users, **levels):
        def die(reached):
            if reached == point:
                raise Killed

        with suppress(Killed):
            at_once(s3, url, local, die).publish("recommendations", lists(users), **levels)

    publish("committed", [OTHER], date=DAYS[0], category="Hats")  # what it replaced holds the canary
    publish("visible", [CANARY], date=DAYS[0], category="Shoes")  # completed, never committed
    publish("uploaded", [CANARY], date=DAYS[0], category="Bags")  # not even completed


def test_what_writers_left_behind_goes_from_the_bucket_with_the_customer(s3, shop, tmp_path):
    url, home = shop
    kill_writers(s3, url, home / "warehouse")
    (tmp_path / "note").write_bytes(b"somebody's own")
    place = f"{url.removeprefix(f's3://{BUCKET}/')}/recommendations/note"
    s3.client().upload_file(str(tmp_path / "note"), BUCKET, place)
    before = stored(s3, url, tmp_path / "before")
    assert len([key for key in before if key.startswith(LISTS)]) == 1 and len(s3.uploads()) == 1
    assert [key for key in before if "category=Shoes" in key] and [key for key in before if "interactions/" in key]

    warehouse = at_once(s3, url, home / "warehouse")
    forget_in(home, [CANARY], warehouse=warehouse)
    assert stored(s3, url, tmp_path / "after") == {}
    assert s3.uploads() == []
    assert findings(home, [CANARY]) == {}
    assert "recommendations/note" in s3.keys(url)
    assert {row["user_id"] for row in warehouse.read("recommendations").to_pylist()} == {OTHER}
    assert not forget_in(home, [CANARY], warehouse=warehouse).removed


def test_copies_of_what_other_machines_replaced_or_removed_go_from_this_one(s3, shop, tmp_path):
    url, home = shop
    elsewhere = warehouse_at(s3, url, tmp_path / "elsewhere")
    elsewhere.publish("recommendations", lists([OTHER]), date=DAYS[0], category="Hats")
    elsewhere.remove("recommendations", date=DAYS[1])
    begun = home / "warehouse" / "_cache" / LISTS / ".part-x.parquet.1.tmp"
    begun.write_text(f"half of {CANARY}")
    copies = findings(home / "warehouse", [CANARY])
    assert {f"_cache/{LISTS}", f"_cache/{LISTS.replace(DAYS[0], DAYS[1])}"} <= {
        str(Path(name).parent) for name in copies
    }
    forget_in(home, [CANARY], warehouse=at_once(s3, url, home / "warehouse"))
    assert findings(home, [CANARY]) == {}


def test_a_copy_stays_for_the_readers_of_a_moment_ago(s3, shop, monkeypatch):
    url, home = shop
    warehouse = Warehouse(object_store(s3, url, home / "warehouse"), grace_seconds=60)
    (old,) = warehouse.files("recommendations", date=DAYS[0], category="Hats")
    warehouse.publish("recommendations", lists([]), date=DAYS[0], category="Hats")
    (new,) = warehouse.files("recommendations", date=DAYS[0], category="Hats")
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append((seconds, old.exists())))
    warehouse.clear()
    assert any(30 < seconds <= 60 and there for seconds, there in slept)
    assert not old.exists() and new.exists()
