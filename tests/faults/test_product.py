"""The source itself, what it listens to and tells others, and what it installs."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.settings import PREFECT_API_URL

from deepcluster_core.errors import ConfigError
from flows.prefect_.embedded import EmbeddedServer
from flows.prefect_.serve import address_of, url_of
from tests.support.timeouts import WITHIN_S

ROOT = Path(__file__).parents[2]
PRODUCT = ("flows", "stages", "deepcluster_core")


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
    with pytest.raises(ConfigError, match=r"(?s)is not an IP address.*Fix:"):
        address_of(host)


def reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=WITHIN_S):
            return True
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address")
@pytest.mark.usefixtures("prefect_home")
def test_embedded__listens_on_loopback_alone() -> None:
    """What listens on all addresses answers at 127.0.0.2 too."""
    server = EmbeddedServer()
    try:
        with server.running():
            url = urlsplit(PREFECT_API_URL.value() or "")
            assert url.port is not None
            assert reachable("127.0.0.1", url.port)
            assert not reachable("127.0.0.2", url.port)
    finally:
        server.end()


SETTINGS = """
import json, os
from flows.engine.environment import prepare
prepare()
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
        pytest.param(
            {"DO_NOT_TRACK": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "true"},
            ["0", True, False],
            marks=pytest.mark.slow,
        ),
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
        timeout=WITHIN_S,
        check=True,
    )
    assert json.loads(told.stdout) == expected


# Dependencies


LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


@pytest.mark.parametrize("name", LOCKS)
def test_lock__every_package_is_checked_by_its_hash(name: str) -> None:
    lock = (ROOT / name).read_text(encoding="utf-8")
    entries = re.findall(r"^(?=\S)(.*(?:\n[ \t].*)*)", lock, re.MULTILINE)
    assert entries

    loose = [one for one in entries if not re.search(r"==.*(?s:.)*--hash=sha256:[0-9a-f]{64}", one)]

    assert loose == []
    assert "://" not in lock, "hashes, not addresses, say what is installed"


def locked(*names: str) -> list[str]:
    """Return the packages of lock files."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    return re.findall(r"^([\w.-]+)==", text, re.MULTILINE)


def test_locks__hold_all_that_is_installed_and_each_package_once() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    needed = {
        "requirements.lock": [*project["dependencies"], "setuptools"],  # it builds our own package
        "requirements-dev.lock": project["optional-dependencies"]["dev"],
        "requirements-docs.lock": pyproject["dependency-groups"]["docs"],
        "requirements-uv.lock": ["uv"],
    }
    assert sorted(needed) == LOCKS
    for name, asked in needed.items():
        given = {*locked(name), *run}
        assert {re.split(r"[^\w.-]", one)[0] for one in asked} - given == set(), name
    assert not set(run) & set(dev)


def test_makefile__installs_by_hash_and_nothing_beside_the_locks() -> None:
    wanted = ["make", "--dry-run", "--always-make", "VENV=new", "lint"]
    told = subprocess.run(wanted, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = re.findall(r"pip install (.*?)(?:;|\n|$)", told.replace("\\\n", ""))

    run_time = "--require-hashes --requirement requirements.lock"
    each_by = [
        ("pip", "--require-hashes --requirement requirements-uv.lock 2>/dev/null || true"),
        *((by, run_time) for by in ("uv", "pip")),
        *((by, "--no-deps --no-build-isolation --editable .") for by in ("uv", "pip")),
        *((by, f"{run_time} --requirement requirements-dev.lock") for by in ("uv", "pip")),
    ]
    by_uv = "--quiet --compile-bytecode --python new/bin/python"
    expected = [f"{by_uv if by == 'uv' else '--quiet'} {words}" for by, words in each_by]
    assert installs == expected
