"""The network interface through which this machine reaches another one, or itself."""

import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # from Linux's linux/sockios.h


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
