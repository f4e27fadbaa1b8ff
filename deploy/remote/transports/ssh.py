"""Devices with an ssh server, reached by this machine's `ssh`, so ~/.ssh/config applies."""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlsplit

from deploy.remote.device import Device, ShellDevice
from engine.errors import UserError

CONNECT_S = 10
_HOST = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+)(:\d*)?")
"""A host (IPv6 in brackets) and an optional port; urlsplit would accept anything after the brackets."""
_UNREACHABLE = 255  # the status of ssh itself
_OPTIONS = (
    *("-T", "-o", "BatchMode=yes"),  # an error instead of a question that nobody sees
    *("-o", f"ConnectTimeout={CONNECT_S}"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)


def open(address: str, rest: str) -> Device:
    destination = _destination(address, rest)
    login = shlex.join(["ssh", *destination])

    def refusal(status: int, errors: str) -> str | None:
        return _reason(errors, login) if status == _UNREACHABLE else None

    def command(script: str) -> list[str]:
        # The login shell there may be any shell; it starts a POSIX shell.
        return ["ssh", *_OPTIONS, *destination, shlex.join(["sh", "-c", script])]

    return ShellDevice(address=address, login=login, command=command, refusal=refusal)


def _destination(address: str, rest: str) -> list[str]:
    """The words that tell ssh where to log in."""
    try:
        url = urlsplit(f"ssh://{rest}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UserError(
            f"device={address}: not a valid ssh address ({error}); write ssh://user@host:port, with IPv6 "
            "addresses in brackets: ssh://user@[fe80::1%eth0]:port"
        ) from None
    if (
        not host
        or rest.startswith("-")
        or host.startswith("-")
        or url.path not in ("", "/")
        or url.query
        or url.fragment
        or not _HOST.fullmatch(url.netloc.rpartition("@")[2])
    ):
        raise UserError(
            f"device={address}: not a valid ssh address; write ssh://user@host or ssh://user@host:port"
        )
    if url.password is not None:
        raise UserError(f"device={url.username}@{host}: passwords are not used; log in with a key")
    # urlsplit makes the host lowercase, but it can be a name in ~/.ssh/config.
    where = url.netloc.rpartition("@")[2]
    host = where[where.lower().index(host.lower()) :][: len(host)]
    if ":" in host:  # ssh expects IPv6 addresses without brackets, and zones unescaped
        host = host.replace("%25", "%")
    user = "" if url.username is None else f"{url.username}@"
    return [*([] if port is None else ["-p", str(port)]), user + host]


def _reason(errors: str, login: str) -> str:
    """Why ssh failed, in one line, with the remedy."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if "HOST IDENTIFICATION HAS CHANGED" in errors:
        return (
            "its host key has changed; find out why, remove the old one with ssh-keygen -R <host>, then "
            f"log in once: {login}"
        )
    if "Host key verification failed" in errors:
        return f"its host key is not known here; log in once and accept it: {login}"
    if "Permission denied" in errors:
        return f"it accepts none of your ssh keys; authorize one: ssh-copy-id{login[3:]}"
    for known, text in _KNOWN.items():
        if known in errors:
            return f"{text} ({lines[-1]})" if lines else text
    return f"ssh failed ({lines[-1]})" if lines else "ssh failed"


_KNOWN = {
    "Could not resolve hostname": "there is no such host",
    "timed out": "it does not answer; is it on, and on this network?",
    "No route to host": "it does not answer; is it on, and on this network?",
    "Network is unreachable": "the network is unreachable",
    "Connection refused": "no ssh server answers there; is sshd running, on this port?",
    "closed by remote host": "the connection was lost",
    "Broken pipe": "the connection was lost",
    "not responding": "the connection was lost",
}
