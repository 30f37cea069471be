"""Send short messages to the services that Apprise knows: mail, chats, telephones, web hooks."""

import logging
import warnings
from typing import TYPE_CHECKING, Literal

from deepcluster_core.errors import ConfigError

if TYPE_CHECKING:
    import apprise

Kind = Literal["success", "warning", "failure"]
SERVICES = "https://appriseit.com/services"


def check_url(url: str | None) -> None:
    """Check the URL of a service; None and an empty text stand for no notifications.

    Raises:
        ConfigError: Apprise knows no service with such a URL. The message does not show it, because
            it can hold a password.
    """
    if url and not _services_at(url):
        raise ConfigError(
            f"--notify (or DEEPCLUSTER_NOTIFY): not a URL of a service that Apprise knows.\n"
            f"  Fix: see {SERVICES}, for example mailto://USER:PASSWORD@HOST or json://HOST/PATH."
        )


def send(url: str, title: str, text: str, kind: Kind) -> bool:
    """Send a message to one URL or several, separated by commas; return whether all received it.

    Waits a few seconds for a service that does not answer. Raises nothing.
    """
    services = _services_at(url)
    return bool(services) and bool(services.notify(title=title, body=text, notify_type=kind))


def _services_at(url: str) -> "apprise.Apprise":
    """Return the services at a URL; if any part of it is not understood, none."""
    import apprise  # noqa: PLC0415  slow, and most runs send no notifications

    # Its log lines show parts of URLs.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    services = apprise.Apprise()
    with warnings.catch_warnings():
        # It imports the modules of all its services now, one of which uses an old library.
        warnings.simplefilter("ignore", DeprecationWarning)
        is_understood = services.add(url)
    return services if is_understood else apprise.Apprise()
