"""Check permissions, and explain why a file or folder cannot be read or written."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

SHARING = (
    "A folder that a group shares needs chmod -R g+rwX, chmod g+s on every folder in it, and umask "
    "002 for all its members."
)


def may_write(folder: Path) -> bool:
    """Return whether entries of a folder may be created and replaced.

    A folder that does not exist yet counts as writable if the nearest existing folder above it is.
    Read-only mounts and immutable folders are taken into account. Nothing is changed.
    """
    try:
        return is_allowed(_existing(folder), os.W_OK | os.X_OK)
    except OSError:  # a parent folder may not be entered
        return False


def may_read(path: Path) -> bool:
    """Return whether a file may be read, or a folder listed and entered."""
    if path.is_dir():
        return is_allowed(path, os.R_OK | os.X_OK)
    return is_allowed(path, os.R_OK)


def first_unwritable(folders: Iterable[Path]) -> Path | None:
    """Return the first folder that may not be written, or None."""
    for folder in folders:
        if not may_write(folder):
            return folder
    return None


def why_not_writable(path: Path) -> str:
    """Return a sentence that explains why `path` cannot be created, replaced or deleted.

    It names the owner, the permissions and the user, for example: `/data/run belongs to alice (uid
    1001), group lab, with permissions drwxr-xr-x; you are bob (uid 1002).`
    """
    try:
        place = _obstacle(path)
        status = place.stat()
    except OSError:
        return why_not_readable(path)
    if is_read_only(place):
        return f"{place} is on a file system that is mounted read-only."
    user = _user(_own_uid())
    facts = f"{_described(place, status)}; you are {user}."
    if not _mode_allows(status):
        return facts
    # The permission bits allow it, so name what else can forbid it.
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    if stat.S_ISDIR(status.st_mode) and is_sticky:
        return f"{facts} It is a sticky folder: a file in it may be replaced by its owner only."
    return (
        f"{facts} Its permissions allow it, so something else forbids it: an immutable flag "
        f"(see lsattr), or a network file system that does not trust this user."
    )


def is_read_only(path: Path) -> bool:
    """Return whether `path`, or the folder it would be created in, is mounted read-only."""
    try:
        file_system = os.statvfs(_existing(path))
        return bool(file_system.f_flag & os.ST_RDONLY)
    except OSError:
        return False


def why_not_readable(path: Path) -> str:
    """Return a sentence that explains why a file cannot be read or a folder cannot be listed."""
    user = _user(_own_uid())
    # From the root down, because one closed folder closes everything below it.
    for place in (*reversed(path.absolute().parents), path):
        try:
            status = place.stat()
        except OSError as error:
            return f"{place} cannot be reached ({error.strerror})."
        is_folder = stat.S_ISDIR(status.st_mode)
        wanted = 0
        if is_folder:
            wanted |= os.X_OK
        if place == path or not is_folder:
            wanted |= os.R_OK
        if not is_allowed(place, wanted):
            return f"{_described(place, status)}; you are {user}."
    return f"You are {user}."


def _obstacle(path: Path) -> Path:
    """Return the file or folder that prevents writing `path`: itself or a folder above it."""
    place = _existing(path)
    # To replace an existing file, its folder must be writable, not the file itself.
    is_file = place == path and not path.is_dir()
    if is_file and not may_write(path.parent):
        return path.parent
    return place


def _existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists.

    Raises:
        OSError: a parent folder may not be entered.
    """
    place = path.absolute()
    while True:
        try:
            place.stat()
        except FileNotFoundError:
            place = place.parent
        except NotADirectoryError:  # a file in place of a folder, which the caller reports
            place = place.parent
        else:
            return place


def is_allowed(path: Path, mode: int) -> bool:
    """Return whether the effective user may access `path` with `mode`, such as os.R_OK."""
    can_check_effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=can_check_effective)


def _mode_allows(status: os.stat_result) -> bool:
    """Return whether the permission bits alone let this process write."""
    user = _own_uid()
    if user == 0:
        return True
    # Only the bits of the first class that fits count: owner, group or others.
    if user == status.st_uid:
        return bool(status.st_mode & stat.S_IWUSR)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(status.st_mode & stat.S_IWGRP)
    return bool(status.st_mode & stat.S_IWOTH)


def _described(place: Path, status: os.stat_result) -> str:
    group = _name_of_group(status.st_gid)
    return (
        f"{place} belongs to {_user(status.st_uid)}, group {group}, with permissions "
        f"{stat.filemode(status.st_mode)}"
    )


def _own_uid() -> int:
    """Return the effective user id; 0 on Windows, as in the results of os.stat."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _user(uid: int) -> str:
    try:
        import pwd  # noqa: PLC0415  not on Windows

        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (ImportError, KeyError):  # an unknown user, as in a container or on a network
        return f"the user with uid {uid}"


def _name_of_group(gid: int) -> str:
    try:
        import grp  # noqa: PLC0415  not on Windows

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):
        return str(gid)
