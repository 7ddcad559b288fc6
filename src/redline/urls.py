"""URLs as they may be shown and written down, and the sockets behind them."""

import re
import socket

from redline.errors import UserError


def without_login(url: str) -> str:
    """A URL as it may be shown and written down: without the user and password before its host."""
    return re.sub("(^|//)[^/]*@", r"\1", url)


def without_logins(text: str) -> str:
    """A text whose URLs have lost their users and passwords."""
    return re.sub(r"//\S+", lambda url: without_login(url[0]), text)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; port 0 is any that is free.

    Raises UserError where that cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With TCP named, asyncio switches Nagle's delay off; without, each answer would take 40 ms longer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # who opens a link as soon as it is printed waits, and is not turned away
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be listened on ({error}). Choose another port."
        ) from error
    return listening
