"""Where coordinators of a job may be: one address, or several of which one is in office."""

from __future__ import annotations

Address = tuple[str, int]


def addresses_of(text: str) -> tuple[Address, ...]:
    """The addresses in ``host:port,host:port``.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(_address(each.strip()) for each in text.split(","))


def text_of(address: Address) -> str:
    """An address as users write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)
