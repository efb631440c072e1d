"""The ledger that `dynatrain coordinator` is given, taken hold of; a standby waits here."""

from __future__ import annotations

import argparse
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynatrain.elastic.coordinator import CoordinatorSettings
    from dynatrain.elastic.etcd_ledger import EtcdLedger
    from dynatrain.elastic.ledger import Ledger

_log = logging.getLogger("dynatrain.elastic")


def opened(
    options: argparse.Namespace, settings: CoordinatorSettings, told: Callable[[str], None]
) -> Ledger:
    """The ledger, which this coordinator alone may write.

    Args:
        options: of the command line.
        settings: of the coordinator.
        told: called once with the coordinator in office where this one has to wait for it.
    """
    from dynatrain.elastic.deadlines import office_deadlines
    from dynatrain.elastic.etcd import SCHEME, Certificates, Etcd, login_of, place_of
    from dynatrain.elastic.etcd_ledger import EtcdLedger
    from dynatrain.elastic.sqlite_ledger import SqliteLedger

    if not options.ledger.startswith(SCHEME):
        return SqliteLedger(options.ledger)
    place, deadlines = place_of(options.ledger), office_deadlines(settings.timeout_s)
    certificates = Certificates(options.etcd_ca, options.etcd_cert, options.etcd_key)
    login = login_of(options.etcd_user, options.etcd_password_file)
    etcd = Etcd(place.members, certificates, deadlines, login)
    ledger = EtcdLedger(etcd, place.job, f"{options.listen} on {socket.gethostname()}", deadlines)
    holder = ledger.take_office()
    if holder:
        told(holder)
        _log.info("a standby: %s is in office", holder)
        _wait(ledger, deadlines.poll)
    return ledger


def _wait(ledger: EtcdLedger, poll_s: float) -> None:
    """Waits until the office is free and taken; etcd may be gone meanwhile, and come back."""
    from dynatrain import TransportError

    is_there, waits = True, True
    while waits:
        time.sleep(poll_s)
        try:
            waits = bool(ledger.take_office())
            is_there = True
        except TransportError as error:
            if is_there:
                _log.warning("the standby goes on waiting: %s", error)
            is_there = False
