"""Cuts a Python process off from every network but this machine itself.

Python imports a module of this name at its start. The tests put this folder in front of PYTHONPATH, so that every
process they start, notebook kernels too, has it: what passes here passes without a network.
"""

import socket

REFUSAL = "the tests run without a network"
HERE = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", None}


def _local(address):
    host = address[0] if isinstance(address, tuple) else None
    return host in HERE or str(host).startswith("127.") or host == socket.gethostname()


def _refusing(method):
    def connect(self, address):
        if self.family != getattr(socket, "AF_UNIX", None) and not _local(address):
            raise OSError(f"{REFUSAL}: {address}")
        return method(self, address)

    return connect


def _lookup(host, *arguments, **options):
    if not _local((host.decode() if isinstance(host, bytes) else host,)):
        raise socket.gaierror(f"{REFUSAL}: {host}")
    return _getaddrinfo(host, *arguments, **options)


if socket.getaddrinfo.__name__ != "_lookup":
    _getaddrinfo = socket.getaddrinfo
    socket.getaddrinfo = _lookup
    socket.socket.connect = _refusing(socket.socket.connect)
    socket.socket.connect_ex = _refusing(socket.socket.connect_ex)
