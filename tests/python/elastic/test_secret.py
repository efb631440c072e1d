"""The file of a job's secret, where several coordinators start at the same moment."""

from __future__ import annotations

import threading

import pytest

from dynatrain import TransportError
from dynatrain.elastic import secret


# It found the file before anything was in it, and was refused.
def test_a_standby_waits_until_the_other_one_has_written_the_secret(tmp_path, monkeypatch):
    path, looked, wrote = tmp_path / "secret", threading.Event(), threading.Event()
    path.touch()

    def sleep(_):
        looked.set()
        assert wrote.wait(20)

    def write():
        assert looked.wait(20)
        path.write_text("made by the other one")
        wrote.set()

    monkeypatch.setattr(secret.time, "sleep", sleep)
    writer = threading.Thread(target=write)
    writer.start()
    found = secret.made_secret(path)
    writer.join()

    assert found == b"made by the other one"


# Whoever has made it has died: that is told, and not waited for without end.
def test_a_secret_that_nobody_writes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(secret, "_WRITTEN_WITHIN_S", 0.03)
    path = tmp_path / "secret"
    path.touch()

    with pytest.raises(TransportError, match="it has 0 bytes"):
        secret.made_secret(path)


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "secret"

    assert secret.made_secret(path) == secret.made_secret(path) == secret.read_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
