"""The network interface through which this machine reaches another one, or itself."""

import os
import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # from Linux's linux/sockios.h


VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables that name the interface which ranks use."""
ELSEWHERE = ("192.0.2.1", 9)
"""A host outside every network (RFC 5737), to which the default route leads."""


def use_interface_towards(store: str, *, spans_machines: bool) -> None:
    """Let gloo and NCCL use the interface that leads to the first rank, unless one is named.

    By default they take that of the host's name, which is often the loopback.

    Args:
        store: where the ranks find each other, as for `process_group.joined`.
        spans_machines: whether there are ranks on other machines. If so, where the first rank's
            name stands for the loopback on its own machine, the interface of the default route is
            taken.
    """
    scheme, _, address = store.partition("://")
    if scheme != "tcp":
        return
    host, _, port = address.rpartition(":")
    interface = interface_towards(host, int(port))
    if spans_machines and interface is not None and interface == interface_towards("127.0.0.1", 9):
        interface = interface_towards(*ELSEWHERE)
    if interface is not None:
        for name in VARIABLES:
            os.environ.setdefault(name, interface)


def interface_towards(host: str, port: int) -> str | None:
    """Return the name of the interface that leads to a host; None if it cannot be found.

    Nothing is sent: a UDP socket that is connected only looks up the route.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        own_address: str = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            # The route to an address of this machine leads through the loopback interface, but
            # its address is that of the interface which others reach.
            if _address_of(name, probe) == own_address:
                return name
    return None


def names_loopback(address: str) -> bool:
    """Return whether HOST:PORT has a name, other than `localhost`, that stands for the loopback."""
    host = address.rpartition(":")[0]
    if host == "localhost" or host.replace(".", "").isdecimal():
        return False
    with suppress(OSError):
        return socket.gethostbyname(host).startswith("127.")
    return False


def _address_of(interface: str, opened: socket.socket) -> str | None:
    """Return the IPv4 address of an interface; None if it has none."""
    try:
        from fcntl import ioctl  # noqa: PLC0415  not on Windows
    except ImportError:
        return None
    request = struct.pack("256s", interface.encode()[:15])
    with suppress(OSError):
        answer = ioctl(opened.fileno(), SIOCGIFADDR, request)
        return socket.inet_ntoa(answer[20:24])
    return None
