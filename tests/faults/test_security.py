"""Files from others are data: none of them runs code, escapes its folder or steers a terminal."""

import ast
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deepcluster_core.artifacts.checkpoints import MODEL, MOMENTUM, load_momentum, restore_network
from deepcluster_core.artifacts.features import FEATURES, Features
from deepcluster_core.artifacts.images import PIXELS, Images
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import CLUSTERING, LABELS, read_clustering, read_table
from deepcluster_core.context import Context
from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.models import NetworkConfig
from flows.cli import main
from flows.serve import address_of, url_of, wait_until_up
from flows.terminal import printable, printable_lines
from stages import index
from stages.index import DatasetConfig
from stages.recipe import load_recipe, parse_overrides
from tests.stages.recipes import PLAIN, write

ROOT = Path(__file__).parents[2]
PRODUCT = ("flows", "stages", "deepcluster_core")
HOSTILE = "a\x1b[31m\x07\r\u202eb"
NETWORK = NetworkConfig(name="smallnet", image_size=16)

Plant = Callable[[Path, bytes], None]
"""Write what would run code, if unpickled, where an artifact of the folder has a file."""


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    """Return the file that a bomb writes; the test fails if it is there in the end."""
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists()


def test_bomb__goes_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))  # noqa: S301  so that the rest means something

    assert (tmp_path / "ran").exists()


# Source code


def unsafe(source: str) -> list[str]:
    """Return what in Python source reads files in a way that can run code, or opens a shell."""
    tree = ast.parse(source)
    return [problem for node in ast.walk(tree) if (problem := _problem(node))]


def _problem(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names) if found := {n.name.partition(".")[0] for n in names} & UNSAFE:
            return f"import {', '.join(found)}"
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNSAFE:
            return f"from {module}"
        case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
            return _problem_of_call(f"{module}.{name}", node)
        case ast.Call(func=ast.Attribute(attr="extractall" | "read_pickle" as name)):
            return name
        case _:
            return None


UNSAFE = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
UNSAFE_CALLS = {
    *("os.system", "os.popen", "pd.read_pickle"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"),
}


def _problem_of_call(name: str, call: ast.Call) -> str | None:
    given = {one.arg: ast.unparse(one.value) for one in call.keywords}
    loader = given.get("Loader", ast.unparse(call.args[1]) if len(call.args) > 1 else "")
    fine = {
        "torch.load": given.get("weights_only") == "True",
        "np.load": given.get("allow_pickle") == "False",
        "numpy.load": given.get("allow_pickle") == "False",
        "yaml.load": loader in ("_Loader", "yaml.SafeLoader", "yaml.CSafeLoader"),
    }
    if name in UNSAFE_CALLS or not fine.get(name, True):
        return name
    if name.endswith(".extractall") or "True" in (given.get("shell"), given.get("allow_pickle")):
        return f"{name} is called with {given}"
    return None


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, pickle as p",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file); format.read_array(file, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "archive.extractall()",
        "subprocess.run(command, shell=True)",
    ],
)
def test_unsafe__finds(source: str) -> None:
    assert unsafe(source)


def test_product__reads_nothing_in_a_way_that_runs_code() -> None:
    files = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 60

    found = {str(path): unsafe(path.read_text(encoding="utf-8")) for path in files}

    assert {path: problems for path, problems in found.items() if problems} == {}


def test_product__its_yaml_loader_is_a_safe_one() -> None:
    sources = [
        path.read_text("utf-8")
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py"
    ]
    bases = [
        [ast.unparse(base) for base in node.bases]
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Loader")
    ]
    assert bases == [["yaml.SafeLoader"]]


# Hostile files


class _Holder:
    """Pickled by torch.save, it loads the pickle that it was given."""

    def __init__(self, bomb: bytes) -> None:
        self.bomb = bomb

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.bomb,)


def as_torch_save(path: Path, bomb: bytes) -> None:
    torch.save(_Holder(bomb), path)


def as_pickle(path: Path, bomb: bytes) -> None:
    path.write_bytes(bomb)


@pytest.mark.parametrize("write_bomb", [as_pickle, as_torch_save])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        (
            MODEL,
            lambda folder: restore_network(NETWORK, channels=1, seed=0, checkpoint=folder),
        ),
        (MOMENTUM, load_momentum),
        (CLUSTERING, read_clustering),
        (LABELS, lambda folder: read_table(folder / LABELS)),
        (MANIFEST, read_manifest),
        (FEATURES, Features),
    ],
)
def test_readers__refuse_a_pickle_under_a_trusted_name(
    name: str, read: Callable[[Path], object], write_bomb: Plant, proof: Path, tmp_path: Path
) -> None:
    write_bomb(tmp_path / name, pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError, match=r"(?s)(cannot be|no finished).*Fix:"):
        read(tmp_path)


def test_inspect__a_pickle_is_no_manifest(proof: Path, tmp_path: Path) -> None:
    as_pickle(tmp_path / MANIFEST, pickle.dumps(Bomb(proof)))

    assert inspect(tmp_path)[0] is Condition.DAMAGED


def test_decode__refuses_an_array_of_objects(proof: Path) -> None:
    stored = io.BytesIO()
    np.save(stored, np.array([[Bomb(proof)]], dtype=object), allow_pickle=True)

    for data in (stored.getvalue(), pickle.dumps(Bomb(proof))):
        with pytest.raises(UnreadableImageError):
            decode(data, channels=1, shorter_side=None)


def test_features__refuse_an_array_with_a_pickle_codec(proof: Path, tmp_path: Path) -> None:
    array = tmp_path / FEATURES
    array.mkdir()
    layout = {"zarr_format": 2, "shape": [1, 1], "chunks": [1, 1], "dtype": "|O", "order": "C"}
    codec = {"compressor": None, "filters": [{"id": "pickle"}], "fill_value": None}
    (array / ".zarray").write_text(json.dumps(layout | codec))
    (array / "0.0").write_bytes(pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError):
        list(Features(tmp_path).blocks())


def test_read_table__pickled_arrow_types_stay_closed(proof: Path, tmp_path: Path) -> None:
    """Arrow before version 14 unpickled the type of such a column."""
    hidden = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(proof)),
    }
    field = pa.field("cluster", pa.int32(), metadata=hidden)
    pq.write_table(pa.table([pa.array([1], pa.int32())], pa.schema([field])), tmp_path / LABELS)

    assert read_table(tmp_path / LABELS)["cluster"].to_pylist() == [1]


def test_images__refuse_a_pickle_as_pixels(proof: Path, tmp_path: Path, source: Path) -> None:
    images = tmp_path / "images"
    indexed(DatasetConfig(source=source, channels=1, encoding="raw"), images)
    (part,) = (images / PIXELS).iterdir()
    as_pickle(part, pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError, match="cannot be opened"):
        Images(images)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{}']]",
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_recipes__make_no_python_objects(value: str, proof: Path, tmp_path: Path) -> None:
    value = value.format(proof)

    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_recipe(write(tmp_path / "recipe.yaml", f"{PLAIN}\nseed: {value}\n"))
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse_overrides([f"seed={value}"])


# Folders


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a tar file whose members would lie elsewhere, were they extracted."""
    path = tmp_path / "shard.tar"
    picture = io.BytesIO()
    np.save(picture, np.zeros((8, 8), np.uint8))
    with tarfile.open(path, "w") as archive:
        for name in ("../../above.npy", "/tmp/absolute.npy", "inside.npy"):  # noqa: S108
            member = tarfile.TarInfo(name)
            member.size = picture.tell()
            archive.addfile(member, io.BytesIO(picture.getvalue()))
        link = tarfile.TarInfo("link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def indexed(dataset: DatasetConfig, out: Path) -> None:
    index.run(dataset=dataset, source="any", out=out, context=Context(seed=0))


def test_index__members_of_a_tar_stay_in_it(source: Path, tmp_path: Path) -> None:
    before = {*Path("/tmp").iterdir(), *tmp_path.parent.iterdir(), *tmp_path.iterdir()}  # noqa: S108
    out = tmp_path / "deep" / "images"

    indexed(DatasetConfig(source=source, channels=1, encoding="png"), out)

    paths = read_table(out / "index.parquet")["path"].to_pylist()
    assert paths == ["shard.tar/above.npy", "shard.tar/tmp/absolute.npy", "shard.tar/inside.npy"]
    assert [path.name for path in out.parent.iterdir()] == ["images"]
    assert {*tmp_path.iterdir()} - before == {tmp_path / "deep"}
    assert not Path("/tmp/absolute.npy").exists()  # noqa: S108


# Terminals


def test_printable__escapes_control_and_direction() -> None:
    assert printable(HOSTILE) == r"a\x1b[31m\x07\r\u202eb"
    assert printable("two\nlines") == r"two\nlines"
    assert printable_lines(f"{HOSTILE}\ntwo") == f"{printable(HOSTILE)}\ntwo"
    assert printable("Zürich, 東京 – 🙂.png") == "Zürich, 東京 – 🙂.png"
    assert printable(os.fsdecode(b"\xff.png")) == r"\udcff.png", "else print() fails"


def test_main__errors_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["deepcluster", "show", HOSTILE])

    with pytest.raises(SystemExit):
        main()

    told = capsys.readouterr().err
    assert printable(HOSTILE) in told
    assert "\n  Fix: " in told
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(told)


# Network


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:7"),
        ("localhost", True, "http://127.0.0.1:7"),
        ("::1", True, "http://[::1]:7"),
        ("0.0.0.0", False, "http://127.0.0.1:7"),  # noqa: S104
        ("::", False, "http://[::1]:7"),
        ("192.168.1.5", False, "http://192.168.1.5:7"),
    ],
)
def test_address_of__knows_what_others_can_reach(host: str, loopback: bool, url: str) -> None:
    address = address_of(host)

    assert address.is_loopback == loopback
    assert url_of(address, 7) == url


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.1:80", "256.0.0.1"])
def test_address_of__refuses_what_is_none(host: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)is no IP address.*Fix:"):
        address_of(host)


def reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address")
def test_embedded__listens_on_loopback_alone(tmp_path: Path) -> None:
    """What listens on all addresses answers at 127.0.0.2 too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.embedded", str(port), str(os.getpid())]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}) as one:
        try:
            wait_until_up(f"http://127.0.0.1:{port}/api", one, within_s=120)
            assert reachable("127.0.0.1", port)
            assert not reachable("127.0.0.2", port)
        finally:
            one.terminate()


SETTINGS = """
import json, os, flows
from prefect.settings import get_current_settings
server = get_current_settings().server
print(json.dumps([
    os.environ["DO_NOT_TRACK"], server.analytics_enabled, server.ui.show_promotional_content
]))
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["1", False, False]),
        ({"DO_NOT_TRACK": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}, ["0", True, False]),
    ],
)
def test_flows__no_telemetry_unless_the_person_says_so(
    chosen: dict[str, str], expected: list[object], tmp_path: Path
) -> None:
    unset = ("PREFECT_", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    told = subprocess.run(
        [sys.executable, "-c", SETTINGS],
        env=kept | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | chosen,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(told.stdout) == expected


# Dependencies


def test_lock__every_package_is_checked_by_its_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(?=\S)(.*(?:\n[ \t].*)*)", lock, re.MULTILINE)
    assert len(entries) > 100

    loose = [one for one in entries if not re.search(r"==.*(?s:.)*--hash=sha256:[0-9a-f]{64}", one)]

    assert loose == []
    assert "://" not in lock, "hashes, not addresses, say what is installed"


def test_lock__holds_all_that_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))

    assert {re.split(r"[^\w.-]", one)[0] for one in asked} - locked == set()


def test_makefile__installs_by_hash_and_nothing_beside_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("$(INSTALLED):")[2].partition("\n\n")[0]
    installs = [line for line in recipe.splitlines() if "pip install" in line]

    assert len(installs) == 2
    assert "--require-hashes --requirement requirements.lock" in installs[0]
    assert "--no-deps --editable ." in installs[1]
