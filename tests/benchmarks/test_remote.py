from benchmarks.remote import count_requests
from tests.support.store_proxy import Request


def test_count_requests__of_new_epochs_as_clients_write_their_paths() -> None:
    before = [
        Request("LIST", "/bucket?list-type=2&prefix=demo"),
        Request("GET", "/bucket/demo/labels/epoch%3D0001/_manifest.json"),
    ]
    new = [
        Request("PUT", "/bucket/demo/labels/epoch%3D0002/labels.parquet"),
        Request("PUT", "/bucket/demo/labels/epoch=0002/_manifest.json"),
        Request("GET", "/bucket/demo/features/epoch%3D0003/features.zarr/c/0/0"),
        Request("DELETE", "/bucket/demo/features/epoch%3D0001/features.zarr/c/0/0"),
    ]
    beside = [Request("PUT", "/bucket/demo/_lease"), Request("PUT", "/bucket/demo/report.html")]

    assert count_requests([*before, *new, *beside], first=2) == (4, 0)
    assert count_requests([*before, *new, before[0]], first=2) == (4, 1)
