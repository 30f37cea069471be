"""`deepcluster look`: a real server, asked by a client. See also test_look_browser."""

import io
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_labels
from flows.cli.main import main
from flows.look.contents import RunContents
from flows.look.orders import BLOCK, OutlierScores, Scoring, ordered_members
from stages.runs.cluster_names import names_at
from stages.runs.folder import RunFolder
from stages.runs.image_facts import ImageFacts
from stages.runs.past_run import PastRun
from tests.support.look_server import HOSTILE, LAST, Served, members_of, rows_of
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S


def test_guard__lets_only_the_own_browser_in(served: Served) -> None:
    page = f"{served.base}/epoch/{LAST}/"
    assert httpx.get(page).status_code == 403, "another user of the machine"
    assert httpx.get(f"{served.base}/?key=wrong").status_code == 403
    with served.client() as client:
        assert client.get(page).status_code == 200
        rebound = client.get(page, headers={"Host": "evil.example"})
        tunnelled = client.get(page, headers={"Host": "localhost:9999"})
    assert rebound.status_code == 403, "a name that points at 127.0.0.1"
    assert tunnelled.status_code == 200, "ssh -L 9999:127.0.0.1:PORT"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", ""])
def test_guard__refuses_what_other_pages_send(served: Served, origin: str) -> None:
    answer = served.post(f"/epoch/{LAST}/cluster/0/name", {"name": "x"}, Origin=origin)

    assert answer.status_code == 403
    assert names_at(RunFolder(served.run), LAST).get(0) is None


def test_guard__restricts_the_pages(served: Served) -> None:
    with served.client() as client:
        headers = client.get(f"/epoch/{LAST}/").headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of Linux alone")
def test_look__listens_on_one_address_only(served: Served) -> None:
    port = int(served.base.rpartition(":")[2])

    socket.create_connection(("127.0.0.1", port), WITHIN_S).close()
    with pytest.raises(ConnectionRefusedError):  # as at any address that others could reach
        socket.create_connection(("127.0.0.2", port), WITHIN_S)


def test_picture__is_the_packed_image(served: Served) -> None:
    images = Images(served.run / "images")
    with served.client() as client:
        page = client.get(f"/epoch/{LAST}/image/5").text
        source = page.partition('src="/picture/')[2].partition('"')[0]
        answer = client.get(f"/picture/{source}")
        other_run = client.get("/picture/0123456789ab/5.png")

    with Image.open(io.BytesIO(answer.content)) as picture:
        shown = np.asarray(picture)
    assert np.array_equal(shown.reshape(images[5].shape), images[5])
    assert "immutable" in answer.headers["cache-control"]
    assert other_run.status_code == 404, "a page of another run that had this port"


@pytest.mark.parametrize(
    "path",
    [
        "/picture/x/..%2f..%2fconfig.yaml",
        "/epoch/0/image/120",
        "/epoch/0/image/-1",
        "/epoch/9/",
        "/epoch/0/cluster/10000",
        "/epoch/0/cluster/one",
        "/config.yaml",
        "/docs",
    ],
)
def test_look__has_no_page_for_anything_else(served: Served, path: str) -> None:
    with served.client() as client:
        answer = client.get(path)

    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_cluster__shows_each_of_its_images_once_in_every_order(served: Served) -> None:
    cluster = int(read_labels(served.run / f"labels/epoch={LAST:04d}").cluster_N[0])
    with served.client() as client:
        for order in ("near", "far", "outlier", "unstable", "id"):
            page = client.get(f"/epoch/{LAST}/cluster/{cluster}?order={order}").text
            shown = [int(part.partition('"')[0]) for part in page.split('data-image="')[1:]]
            assert sorted(shown) == members_of(served.run, cluster)


def test_pages__escape_hostile_names(served: Served) -> None:
    address = f"/epoch/{LAST}/cluster/1"
    served.post(f"{address}/name", {"name": HOSTILE})
    with served.client() as client:
        for path in (address, f"/epoch/{LAST}/", f"/epoch/{LAST}/image/1", f"/epoch/{LAST}/moves"):
            page = client.get(path).text
            assert "<img src=x" not in page
            assert "<b>run" not in page.replace("<b>&lt;b&gt;run", "")
        found = client.get(f"/epoch/{LAST}/search", params={"q": "ONERROR=alert"}).text
    served.post(f"{address}/name", {"name": ""})

    assert "1 cluster, 4 classes and 120 images" in found


def test_search__says_so_if_nothing_is_found(served: Served) -> None:
    with served.client() as client:
        answer = client.get(f"/epoch/{LAST}/search", params={"q": "no such thing"})

    assert "Nothing is called “no such thing”" in answer.text
    assert answer.status_code == 200


def test_name__many_at_once_are_all_kept(served: Served) -> None:
    def give(cluster: int) -> int:
        address = f"/epoch/{LAST}/cluster/{cluster}/name"
        return served.post(address, {"name": f"name {cluster}"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(give, range(8))) == {200}

    found = names_at(RunFolder(served.run), LAST)
    assert {cluster: one.name for cluster, one in found.items()} == {
        cluster: f"name {cluster}" for cluster in range(8)
    }
    for cluster in range(8):
        served.post(f"/epoch/{LAST}/cluster/{cluster}/name", {"name": ""})
    assert names_at(RunFolder(served.run), LAST) == {}


def test_name__says_why_it_is_not_accepted(served: Served) -> None:
    answer = served.post(f"/epoch/{LAST}/cluster/0/name", {"name": "x" * 101})

    assert answer.status_code == 409
    assert "at most 100" in answer.json()["error"]


def test_take_out__a_table_of_images_and_clusters(served: Served) -> None:
    wanted = sorted({3, 5, *members_of(served.run, 2)})
    text = served.take_out("csv", images=[5, 3], clusters=[2]).text

    rows = rows_of(text)
    paths = Images(served.run / "images").paths().to_pylist()
    assert [int(row["image_id"]) for row in rows] == wanted
    assert [row["path"] for row in rows] == [paths[image_id] for image_id in wanted]


def test_take_out__a_list_of_files(served: Served) -> None:
    lines = served.take_out("list", images=[0, 7]).text.splitlines()

    assert not Path(lines[0]).exists(), "the file that is gone: its path in the source"
    assert Path(lines[1]).is_file()


def test_take_out__copies_into_a_new_folder(served: Served) -> None:
    answer = served.take_out("folder", images=[0, 7], folder="ticked")

    folder = served.out / "ticked"
    assert str(folder) in answer.json()["message"]
    assert "1 of them have no file" in answer.json()["message"]
    packed, original = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    images = Images(served.run / "images")
    assert images.originals is not None
    assert original.read_bytes() == (images.originals / images.paths()[7].as_py()).read_bytes()
    with Image.open(packed) as picture:
        assert picture.size == (16, 16)
    assert len(rows_of((folder / "images.csv").read_text())) == 2

    again = served.take_out("folder", images=[3], folder="ticked")
    assert again.status_code == 409
    assert "exists already" in again.json()["error"]
    assert len([*folder.rglob("*.png")]) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\\b", " x"])
def test_take_out__only_under_the_chosen_folder(served: Served, name: str) -> None:
    before = sorted(served.out.parent.iterdir())

    answer = served.take_out("folder", images=[3], folder=name)

    assert answer.status_code == 409
    assert "is not a plain name" in answer.json()["error"]
    assert sorted(served.out.parent.iterdir()) == before


def test_take_out__nothing_ticked(served: Served) -> None:
    assert "tick images or clusters first" in served.take_out("csv").json()["error"]


def test_neighbours__are_those_of_the_run(served: Served) -> None:
    contents = RunContents(PastRun.open(str(served.run)), LAST).at(LAST)
    whole = ImageFacts.of(PastRun.open(str(served.run)), LAST).neighbours

    found = contents.neighbours(np.array([5, 77]), 4)

    assert np.allclose(found.similarity_NM, whole.similarity_NM[[5, 77], :4], atol=1e-5)


def test_ordered_members__waits_for_outlier_scores_only_so_long(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.look.orders.WAIT_S", 0)
    contents = RunContents(PastRun.open(str(served.run)), LAST).at(LAST)
    outliers = OutlierScores()

    first = ordered_members(contents, 0, "outlier", outliers)
    assert isinstance(first, Scoring)
    first.future.result(WITHIN_S)

    assert first.done == first.total <= BLOCK
    ordered = ordered_members(contents, 0, "outlier", outliers)
    outliers.close()
    assert not isinstance(ordered, Scoring)
    score_M = ImageFacts.of(contents.facts.past, LAST).outliers[ordered]
    assert (np.diff(score_M) <= 1e-6).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epoch", "7"], "the run has epochs 0 to 2"),
        (["--out", "/no/such/folder"], "is not a folder"),
        (["--out", "labels"], "lies among the artifacts"),
    ],
)
def test_look__names_the_fix(
    hostile_run: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["look", str(hostile_run), "--no-browser", *options]
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
    monkeypatch.chdir(hostile_run)

    with pytest.raises(SystemExit) as ended:
        main()

    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in printed
    assert "Fix:" in printed


@pytest.mark.slow
def test_look__port_of_another_program(hostile_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [PROGRAM, "look", hostile_run, "--no-browser", "--port", port]
        ended = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )

    assert ended.returncode == 2
    assert f"--port {port}: another program listens there." in ended.stderr


@pytest.mark.slow
def test_look__needs_no_prefect() -> None:
    program = "import sys, flows.look.server; sys.exit('prefect' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
