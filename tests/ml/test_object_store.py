"""The warehouse on an object store: what plain readers and ours see, caches, settings, and errors in words."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.stub import Stubber
from object_store_places import BUCKET, copies_of, fresh_url, object_store, plain_rows, warehouse_at
from pydantic import ValidationError
from test_warehouse_faults import DAY, ROWS, noise, version

from ml.errors import BadInputError, HemlineError
from ml.settings import ObjectStoreSettings, Settings
from ml.tables import TABLES
from ml.transient import is_transient
from ml.warehouse import TableCheckError, Warehouse, open_warehouse
from ml.warehouse.bucket import Bucket, StoreError, Upload
from ml.warehouse.files import name_by_content
from ml.warehouse.object_store import ObjectStore
from pipelines.settings import load_settings

LEAF = f"recommendations/date={DAY}/category=Clothing"


def test_what_is_published_comes_back_from_ours_and_from_plain_readers(s3, tmp_path):
    url = fresh_url()
    warehouse = warehouse_at(s3, url, tmp_path / "a")
    for category in ("50% off & more", "Clothing"):
        done = warehouse.publish("recommendations", version(1), date=DAY, category=category)
    assert done.changed and done.rows == ROWS and done.location == f"{url}/{LEAF}"
    elsewhere = warehouse_at(s3, url, tmp_path / "b")
    rows = elsewhere.read("recommendations", date=DAY)
    assert rows.num_rows == 2 * ROWS and set(rows["category"].to_pylist()) == {"50% off & more", "Clothing"}
    assert elsewhere.days("recommendations") == [DAY]
    assert elsewhere.exists("recommendations", category="Clothing")
    assert not elsewhere.exists("recommendations", category="Bags") and not elsewhere.exists("catalog")
    plain = pd.read_parquet(f"{url.removeprefix('s3://')}/recommendations", filesystem=s3.file_system())
    assert plain.groupby("category", observed=True).size().to_dict() == {"50% off & more": ROWS, "Clothing": ROWS}
    assert all(key.endswith(".parquet") for key in s3.keys(url, "recommendations/"))


def test_a_replaced_version_is_gone_and_the_same_rows_have_the_names_they_have_on_a_disk(s3, tmp_path):
    url, disk = fresh_url(), Warehouse(tmp_path / "disk")
    warehouse = warehouse_at(s3, url, tmp_path / "a")
    for number in (1, 2):
        warehouse.publish("recommendations", version(number), date=DAY, category="Clothing")
        disk.publish("recommendations", version(number), date=DAY, category="Clothing")
        assert plain_rows(s3, url) == {str(number): ROWS}
        for levels in ({}, {"date": DAY}):
            assert warehouse.content("recommendations", **levels) == disk.content("recommendations", **levels)
    assert len(s3.keys(url, LEAF)) == 1 and s3.uploads() == []


def test_identical_content_is_not_published_again_unless_it_was_lost(s3, tmp_path):
    url = fresh_url()
    warehouse = warehouse_at(s3, url, tmp_path / "a")
    warehouse.publish("recommendations", version(1), date=DAY, category="Clothing")
    before = s3.keys(url, LEAF)
    again = warehouse_at(s3, url, tmp_path / "b").publish("recommendations", version(1), date=DAY, category="Clothing")
    assert not again.changed and s3.keys(url, LEAF) == before, "the key would differ"
    bucket, (key,) = s3.client(), before
    place = {"Bucket": BUCKET, "Key": f"{url.removeprefix(f's3://{BUCKET}/')}/{key}"}
    for spoil in (lambda: bucket.delete_object(**place), lambda: bucket.put_object(**place, Body=b"short")):
        spoil()
        assert warehouse.publish("recommendations", version(1), date=DAY, category="Clothing").changed
        assert warehouse_at(s3, url, tmp_path / "b").read("recommendations").num_rows == ROWS
        (key,) = s3.keys(url, LEAF)
        place["Key"] = f"{url.removeprefix(f's3://{BUCKET}/')}/{key}"


def test_bad_rows_leave_nothing_on_the_store(s3, tmp_path):
    url = fresh_url()
    with pytest.raises(TableCheckError):
        bad = pa.concat_tables([version(1), version(1)])
        warehouse_at(s3, url, tmp_path / "a").publish("recommendations", bad, date=DAY, category="Clothing")
    assert s3.keys(url) == {} and s3.uploads() == []


def test_a_file_of_several_parts_and_a_partition_of_several_files(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("ml.warehouse.bucket.PART_BYTES", 5 * 2**20)
    url, staged = fresh_url(), tmp_path / "staged"
    staged.mkdir()
    for number, rows in enumerate((50_000, 400)):
        pq.write_table(noise(rows), staged / f"{number}", compression="none", use_dictionary=False)
    name_by_content(staged)
    largest = max(path.stat().st_size for path in staged.iterdir())
    assert object_store(s3, url, tmp_path / "a").put(Path(LEAF), staged, lambda point: None)
    parts = {path.rpartition("=")[2] for method, path in s3.requests if method == "PUT" and "partNumber" in path}
    assert largest > 5 * 2**20 and {"1", "2"} <= parts and len(s3.keys(url, LEAF)) == 2
    assert warehouse_at(s3, url, tmp_path / "b").read("recommendations").num_rows == 50_400


def test_each_file_is_downloaded_once_and_checked_and_old_copies_go(s3, tmp_path):
    url = fresh_url()
    writer, reader = warehouse_at(s3, url, tmp_path / "a"), warehouse_at(s3, url, tmp_path / "b", keep_seconds=0)
    writer.publish("recommendations", version(1), date=DAY, category="Clothing")
    s3.requests.clear()
    for _ in range(3):
        assert reader.read("recommendations").num_rows == ROWS
        assert writer.read("recommendations").num_rows == ROWS
    assert len([path for method, path in s3.requests if method == "GET" and ".parquet" in path]) == 1
    writer.publish("recommendations", version(2), date=DAY, category="Clothing")
    assert set(reader.read("recommendations")["model_version"].to_pylist()) == {"2"}
    (copy,) = copies_of(reader)
    assert copy == reader.files("recommendations")[0]
    (key,) = s3.keys(url, LEAF)
    size = s3.keys(url, LEAF)[key]
    s3.client().put_object(Bucket=BUCKET, Key=f"{url.removeprefix(f's3://{BUCKET}/')}/{key}", Body=b"x" * size)
    with pytest.raises(HemlineError, match=r"not those that were published.*publish the partition again"):
        warehouse_at(s3, url, tmp_path / "c").read("recommendations")


def test_spark_writes_and_reads_it(s3, tmp_path, spark):
    from ml.warehouse.spark_io import spark_schema

    url, days = fresh_url(), ["2026-11-18", "2026-11-19", DAY]
    warehouse = warehouse_at(s3, url, tmp_path / "a")
    rows = [("Clothing", "red shoe", f"i{n}", 1, 0, 0, 0) for n in range(5)]
    frame = spark.createDataFrame(rows, spark_schema(TABLES["query_daily"]))
    done = warehouse.publish_days(
        "query_daily", frame.crossJoin(spark.createDataFrame([(d,) for d in days], "date string")), days
    )
    assert [p.rows for p in done] == [5, 5, 5]
    assert not warehouse.publish_frame("query_daily", frame, date=DAY).changed
    elsewhere = warehouse_at(s3, url, tmp_path / "b")
    assert elsewhere.frame(spark, "query_daily", days=(days[1], DAY)).count() == 10
    assert sorted(r.date for r in elsewhere.frame(spark, "query_daily").select("date").distinct().collect()) == days
    assert len(copies_of(elsewhere)) == 3


def test_a_removed_partition_is_gone_on_a_store_as_on_a_disk(s3, tmp_path):
    url = fresh_url()
    for warehouse in (Warehouse(tmp_path / "disk", grace_seconds=0), warehouse_at(s3, url, tmp_path / "a")):
        for category in ("Bags", "Clothing", "Footwear"):
            warehouse.publish("recommendations", version(1), date=DAY, category=category)
        warehouse.remove("recommendations", date=DAY, category="Bags")
        assert warehouse.level_values("recommendations", "category") == ["Clothing", "Footwear"]
        warehouse.remove("recommendations", date=DAY)
        warehouse.remove("recommendations", date="2026-11-21")
        assert not warehouse.exists("recommendations") and warehouse.read("recommendations").num_rows == 0
        assert list((tmp_path / "disk").rglob("*.parquet")) == []
    assert s3.keys(url, "recommendations/") == {}
    assert warehouse.publish("recommendations", version(1), date=DAY, category="Bags").changed


def test_a_store_that_ignores_conditions_is_refused(s3, tmp_path, monkeypatch):
    url = fresh_url()
    monkeypatch.setattr(s3, "fault", lambda method, path: "unconditional")
    with pytest.raises(HemlineError, match="ignores the conditions of a PUT"):
        warehouse_at(s3, url, tmp_path / "a").publish("recommendations", version(1), date=DAY, category="Clothing")
    assert s3.keys(url, "recommendations/") == {}


def test_errors_are_told_in_words_without_secrets(s3, tmp_path, monkeypatch):
    def failure(url, endpoint=None):
        settings = ObjectStoreSettings(endpoint=endpoint or s3.endpoint)
        with pytest.raises(HemlineError) as caught:
            Warehouse(ObjectStore(url, settings, tmp_path / "w")).publish(
                "catalog", TABLES["catalog"].schema.empty_table()
            )
        assert "51c7" not in str(caught.value)
        return caught.value

    error = failure("s3://nobody-made-this/w")
    assert isinstance(error, BadInputError) and "create it, or correct the setting" in str(error)
    error = failure(fresh_url(), "http://127.0.0.1:9")
    assert isinstance(error, StoreError) and "no answer from http://127.0.0.1:9" in str(error) and is_transient(error)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "set AWS_ACCESS_KEY_ID" in str(failure(fresh_url()))


def test_a_store_that_refuses_says_which_rights_are_needed(s3):
    bucket = Bucket(fresh_url(), ObjectStoreSettings(endpoint=s3.endpoint))
    with Stubber(bucket._client) as refusing:
        refusing.add_client_error("get_object", "AccessDenied", http_status_code=403)
        with pytest.raises(StoreError, match="must be allowed to list, read, write and delete there") as caught:
            bucket.get("head.json")
    assert not is_transient(caught.value), "a person must mend it"


@pytest.mark.parametrize(("there", "done"), [(5, True), (4, False)])
def test_an_upload_that_the_store_no_longer_knows_was_completed_if_its_object_is_there(s3, there, done):
    """A completion sent again after its answer got lost: Amazon's store may forget the upload, moto's does not."""
    bucket, upload = Bucket(fresh_url(), ObjectStoreSettings(endpoint=s3.endpoint)), Upload("part", "id", 5)
    with Stubber(bucket._client) as store:
        store.add_client_error("complete_multipart_upload", "NoSuchUpload", http_status_code=404)
        store.add_response("head_object", {"ContentLength": there})
        with nullcontext() if done else pytest.raises(StoreError, match="the store answers NoSuchUpload"):
            bucket.complete(upload)
        store.assert_no_pending_responses()


@pytest.mark.parametrize(
    "wrong", ["gs://bucket/w", "s3://", "s3://key:secret@bucket/w", "s3://bucket/a b", "s3a://bucket/w"]
)
def test_other_addresses_are_refused(wrong):
    with pytest.raises(ValidationError, match="expected a folder of a local file system, or s3://bucket/folder"):
        Settings(warehouse=wrong)


def test_settings_open_the_store(tmp_path):
    file = tmp_path / "hemline.yaml"
    file.write_text("warehouse: s3://bucket/shop/\nobject_store: {endpoint: 'http://127.0.0.1:9000'}\nhome: h\n")
    warehouse = open_warehouse(load_settings(file, environment={}).settings)
    assert warehouse.location("recommendations", date=DAY) == f"s3://bucket/shop/recommendations/date={DAY}"
    assert warehouse.root == tmp_path / "h" / "warehouse" and not warehouse.root.exists()
    file.write_text("warehouse: tables\n")
    assert open_warehouse(load_settings(file, environment={}).settings).root == tmp_path / "tables"
    for endpoint in ("http://key:secret@127.0.0.1:9000", "127.0.0.1:9000"):
        with pytest.raises(ValidationError, match="endpoint"):
            ObjectStoreSettings(endpoint=endpoint)
