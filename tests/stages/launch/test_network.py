"""Which interface ranks on several machines use."""

import os
import socket

import pytest

from stages.runs.launch.network import interface_towards, names_loopback, use_interface_towards

LOOPBACK = "127.0.0.1"


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what the function sets
        monkeypatch.delenv(name)
    return monkeypatch


def test_use_interface_towards__the_first_rank(unnamed: pytest.MonkeyPatch) -> None:
    loopback = interface_towards(LOOPBACK, 9)
    assert loopback is not None

    use_interface_towards("file:///tmp/store", spans_machines=True)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    use_interface_towards(f"tcp://{LOOPBACK}:29500", spans_machines=False)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == loopback


def test_use_interface_towards__one_that_others_reach(unnamed: pytest.MonkeyPatch) -> None:
    outwards = interface_towards("192.0.2.1", 9)
    if outwards is None:
        pytest.skip("this machine has no default route")

    use_interface_towards(f"tcp://{LOOPBACK}:29500", spans_machines=True)

    assert os.environ["GLOO_SOCKET_IFNAME"] == outwards != interface_towards(LOOPBACK, 9)


def test_use_interface_towards__leaves_what_a_person_has_set(unnamed: pytest.MonkeyPatch) -> None:
    unnamed.setenv("GLOO_SOCKET_IFNAME", "ib0")

    use_interface_towards(f"tcp://{LOOPBACK}:29500", spans_machines=False)

    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("node1:29500", True),
        ("node2:29500", False),
        ("127.0.0.1:29500", False),  # on purpose, as `localhost`
        ("localhost:29500", False),
        ("unknown:29500", False),
    ],
)
def test_names_loopback(address: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"node1": "127.0.1.1", "node2": "10.0.0.2"}

    def look_up(host: str) -> str:
        if host not in known:
            raise socket.gaierror(host)
        return known[host]

    monkeypatch.setattr(socket, "gethostbyname", look_up)

    assert names_loopback(address) is expected
