"""Sockets of the servers that Redline starts."""

import socket

from redline.errors import UserError


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
