"""Build the error message for every way in which a Prefect server cannot be used."""

import re
import sys
from dataclasses import dataclass

from deepcluster_core.errors import DeepClusterError
from deepcluster_core.text import printable
from flows.prefect_.database import Database
from flows.prefect_.settings import DATABASE_HOST, DATABASE_URL, HOME, Origin, origin_of

SHOWN = 300
"""Longest part of a server's last line that is shown, in characters."""
EXCEPTION = re.compile(r"(?!ERROR|WARNING|INFO)[a-zA-Z_][\w.]*(: .*)?")
"""The line of a traceback that names the error: not indented, a class and a message."""
OTHER_HOME = "set PREFECT_HOME to a new folder"
_GENERAL_FIX = (
    "run the command again; on a busy machine set PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS "
    f"to more; if that does not help, {OTHER_HOME}, or start a server with `prefect server start` "
    "and set PREFECT_API_URL to its address"
)


class ServerError(DeepClusterError):
    """A Prefect server is needed, but none can be used."""


@dataclass(frozen=True)
class _Cause:
    """A known cause of a server's error, explained for people."""

    words: str
    """A regular expression that matches the server's output."""
    reason: str
    fix: str


DATABASE_CAUSES = (
    _Cause(
        "Can't locate revision",
        "was upgraded by another version of Prefect",
        "use the version of Prefect that upgraded it",
    ),
    _Cause("database is locked", "is locked by another program", "stop that program"),
    _Cause("disk is full|No space left", "cannot grow: its disk is full", "free some space"),
    _Cause(
        "file is not a database|malformed|not an error",
        "is damaged or not a database",
        "move that file away (it only holds records of past runs)",
    ),
    _Cause(
        "readonly database|unable to open database|disk I/O error|Permission denied|"
        "Read-only file system",
        "cannot be written",
        "check that its folder is writable and its disk not full",
    ),
    _Cause(
        "ConnectionRefused|Connect call failed|gaierror|TimeoutError|Network is unreachable",
        "cannot be reached",
        "start the database server",
    ),
    _Cause(
        "password authentication|InvalidPassword|InvalidAuthorization|does not exist",
        "does not accept this user",
        "correct the user, the password or the name of the database",
    ),
    _Cause(
        "Could not parse|Unable to infer database|NoSuchModule|Can't load plugin|ArgumentError",
        "is not one that Prefect can use",
        "correct it",
    ),
    _Cause(
        "already exists|duplicate column|no such table|no such column|UndefinedTable",
        "is another program's, or was left unfinished",
        "move it away",
    ),
)


def server_error(server: str, reason: str, fix: str, origin: Origin | None = None) -> ServerError:
    """Return the error for a server that cannot be used.

    Args:
        server: what the message calls the server, for example its URL.
        reason: why the server cannot be used.
        fix: what to do about it.
        origin: the setting that chose this server or its database; None if nobody has set one.
    """
    setting = ""
    if origin is not None:
        setting = f"\n  Setting: {origin}"
    return ServerError(f"{server}: {reason}.{setting}\n  Fix: {fix}.")


def own_server_error(what_happened: str, output: str, database: Database) -> ServerError:
    """Return the error for a server that this program started; print the error line of the server.

    Args:
        what_happened: for example "it ended while it started".
        output: everything that the server has printed.
        database: database that the server was to use.
    """
    server = "the Prefect server of this command did not start"
    origin = origin_of(DATABASE_URL) or origin_of(DATABASE_HOST) or origin_of(HOME)
    line = error_line(output)
    if not line:
        return server_error(server, what_happened, _GENERAL_FIX, origin)
    print(f"Prefect server: {printable(line)}", file=sys.stderr, flush=True)  # noqa: T201
    # Most servers that do not start cannot use their database.
    for cause in DATABASE_CAUSES:
        if re.search(cause.words, output):
            reason = f"its database {database.shown} {cause.reason}"
            undo = OTHER_HOME
            if origin is not None and not database.is_default:
                undo = origin.undo
            return server_error(server, reason, f"{cause.fix}, or {undo}", origin)
    reason = f"{what_happened}; its error is above"
    return server_error(server, reason, _GENERAL_FIX, origin)


def error_line(output: str) -> str:
    """Return the line of a server's output that names the error; the last line if none does."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    if not lines:
        return ""
    # Further lines can follow the error, such as a shutdown that is logged.
    errors = [line for line in lines if EXCEPTION.fullmatch(line)]
    found = errors[-1] if errors else lines[-1]
    if len(found) > SHOWN:
        return f"{found[:SHOWN]} …"
    return found
