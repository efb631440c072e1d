"""A ledger in a real etcd: who may write it, what is found in it, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from dynatrain import LayoutError, TransportError
from dynatrain.elastic import etcd_ledger
from dynatrain.elastic.deadlines import office_deadlines
from dynatrain.elastic.etcd import Certificates, Etcd, Login, Place, login_of, now_s, place_of
from dynatrain.elastic.etcd_ledger import EtcdLedger
from etcd_servers import Cluster

TIMEOUT_S, PLAIN = 60.0, Certificates()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.end()


class Ledgers:
    """Ledgers of one job, as several coordinators have them."""

    def __init__(self, cluster, certificates=PLAIN, login=None):
        self.deadlines = office_deadlines(TIMEOUT_S)
        self.cluster = cluster
        self.access = certificates, self.deadlines, login
        self.made = []

    def candidate(self, name):
        etcd = Etcd(tuple(self.cluster.addresses), *self.access)
        self.made.append(EtcdLedger(etcd, "job", name, self.deadlines))
        return self.made[-1]

    def in_office(self, name):
        ledger = self.candidate(name)
        assert ledger.take_office() == ""
        assert ledger.lines() is not None
        return ledger

    def unseat(self):
        """Ends the office of whoever has it, without a word to it."""
        office = etcd_ledger.packed("dynatrain/job/office")
        self.cluster.asked(0, "kv/deleterange", {"key": office})


@pytest.fixture
def ledgers(cluster):
    made = Ledgers(cluster)
    yield made
    for each in made.made:
        each.close()


# The next coordinator adds up what the former one has decided; one record less is another world.
def test_the_next_coordinator_reads_all_records_in_order(ledgers, monkeypatch):
    monkeypatch.setattr(etcd_ledger, "_RECORDS_A_PAGE", 4)
    first = ledgers.in_office("first")
    records = [f"1 record number={number} of=%C3é" for number in range(10)]
    for record in records[:5]:
        first.append(record)
    first.close()
    second = ledgers.in_office("second")
    for record in records[5:]:
        second.append(record)
    second.close()

    assert ledgers.in_office("third").lines() == records


def test_one_coordinator_is_in_office(ledgers):
    ledgers.in_office("first")

    assert ledgers.candidate("second").take_office() == "first"


# Both have looked, and both have seen nobody.
def test_of_two_that_find_the_office_free_one_takes_it(ledgers, monkeypatch):
    second = ledgers.candidate("second")
    looks = iter(["", "first"])
    monkeypatch.setattr(second, "_holder", lambda: next(looks))
    ledgers.in_office("first")

    assert second.take_office() == "first"


# Its own clock says that the lease still runs: only etcd can know better.
def test_a_coordinator_that_has_lost_its_office_writes_nothing(ledgers):
    first = ledgers.in_office("first")
    first.append("a")
    ledgers.unseat()
    second = ledgers.in_office("second")
    first.check()
    with pytest.raises(TransportError, match="not in office any more"):
        first.append("b of the first")
    second.append("b of the second")

    assert second.lines() == ["a", "b of the second"]
    with pytest.raises(TransportError, match="not in office any more"):
        first.check()


# A process that was stopped does not learn of its end from etcd: it may not even ask.
def test_a_lease_that_was_not_renewed_is_over_by_the_clock(ledgers, monkeypatch):
    first = ledgers.in_office("first")
    later = time.clock_gettime(time.CLOCK_BOOTTIME) + first_lease_s(ledgers) + 1
    monkeypatch.setattr(etcd_ledger, "now_s", lambda: later)
    with pytest.raises(TransportError, match="not renewed in time"):
        first.check()


def first_lease_s(ledgers):
    return ledgers.deadlines.lease


class Deaf:
    """A pool whose requests do their work, the first transactions without an answer."""

    def __init__(self, pool, num_deaf):
        self._pool = pool
        self._left = num_deaf

    def request(self, method, url, **options):
        answer = self._pool.request(method, url, **options)
        if url.endswith("kv/txn") and self._left:
            self._left -= 1
            raise OSError("the answer is lost")
        return answer


# etcd's answer may be lost behind the write: sent again, the record would be there twice.
def test_a_record_whose_answer_is_lost_is_there_once(ledgers):
    first = ledgers.in_office("first")
    first._etcd._pool = Deaf(first._etcd._pool, 1)
    first.append("a")
    first.append("b")

    assert first.lines() == ["a", "b"]


class Answering:
    """An etcd that answers renewals so, one after the other; behind the last the lease is over."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def call(self, what, asked):
        return self.answers.pop(0) if self.answers else {"result": {}}


# The gateway tells errors of a stream with the status of success: the thread that renews died of
# it, and the office was lost though the next renewal would have kept it.
def test_a_renewal_that_is_answered_with_an_error_is_tried_again():
    deadlines = replace(office_deadlines(TIMEOUT_S), renew=0.01)
    etcd = Answering({"error": {"message": "no leader"}}, {"result": {"TTL": "50"}})
    ledger = EtcdLedger(etcd, "job", "name", deadlines)
    ledger._until_s = began_s = now_s() + 10

    ledger._renew()

    assert ledger._until_s > began_s + 30


# Who ends in peace is not waited for.
def test_a_ledger_that_is_closed_leaves_the_office_to_the_next_at_once(ledgers):
    ledgers.in_office("first").close()

    assert ledgers.candidate("second").take_office() == ""


# Somebody else's records under the same name, or a hole that etcd's snapshots were restored with.
def test_records_that_are_not_one_behind_the_other_are_refused(ledgers):
    first = ledgers.in_office("first")
    first.append("a")
    key, value = "dynatrain/job/records/0000000000000003", "c"
    packed = {"key": etcd_ledger.packed(key), "value": etcd_ledger.packed(value)}
    ledgers.cluster.asked(0, "kv/put", packed)
    with pytest.raises(TransportError, match="record 2 is not there"):
        first.lines()


# A wait without an end would hold the coordinator, and all members behind it.
def test_an_etcd_that_is_gone_is_an_error_within_the_deadline(ledgers):
    first = ledgers.in_office("first")
    ledgers.cluster.end()
    with pytest.raises(TransportError, match="etcd does not answer") as raised:
        first.append("a")
    assert raised.value.retryable


def certificates_in(folder):
    """An authority and one certificate of 127.0.0.1 that both sides use."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    openssl(*new, "/CN=authority", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    openssl(*new, "/CN=etcd", "-keyout", "key.pem", "-out", "asked.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    openssl("x509", "-req", "-in", "asked.pem", *signed, "-out", "cert.pem", "-days", "2")
    return [str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]


# Whoever can write these keys decides who trains: etcd asks for a certificate in earnest.
def test_an_etcd_with_tls_wants_the_certificate(tmp_path):
    ca, cert, key = certificates_in(tmp_path)
    tls = [f"--trusted-ca-file={ca}", f"--cert-file={cert}", f"--key-file={key}"]
    cluster = Cluster(tmp_path, tls=[*tls, "--client-cert-auth"])
    try:
        without = Ledgers(cluster, Certificates(ca=ca)).candidate("without")
        with pytest.raises(TransportError, match="etcd does not answer"):
            without.take_office()
        with_it = Ledgers(cluster, Certificates(ca, cert, key)).candidate("with it")
        assert with_it.take_office() == ""
        with_it.append("a")
        assert with_it.lines() == ["a"]
        with_it.close()
    finally:
        cluster.end()


def signing_in(folder):
    """Options by which etcd signs logins, which hold until users change."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, public = folder / "sign.pem", folder / "sign.pub"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    out = ["openssl", "rsa", "-in", key, "-pubout", "-out", public]
    subprocess.run(out, check=True, capture_output=True)
    return [f"--auth-token=jwt,pub-key={public},priv-key={key},sign-method=RS256"]


# It holds for minutes, or until users change: a coordinator would lose its office then.
@pytest.mark.parametrize(
    ("flags", "ends_logins"),
    [
        (lambda _: ["--auth-token-ttl=1"], lambda _: time.sleep(3)),
        (signing_in, lambda cluster: cluster.add_user("somebody")),
    ],
    ids=["its time is over", "users change"],
)
def test_a_login_that_has_ended_is_done_again(tmp_path, flags, ends_logins):
    cluster = Cluster(tmp_path, flags=flags(tmp_path))
    try:
        cluster.know_users("jobs", "open sesame")
        (tmp_path / "password").write_text("open sesame\n")
        login = login_of("jobs", str(tmp_path / "password"))
        ledger = Ledgers(cluster, login=login).in_office("first")
        ledger.append("a")
        ends_logins(cluster)
        ledger.append("b")
        assert ledger.lines() == ["a", "b"]
        ledger.close()
    finally:
        cluster.end()


@pytest.mark.parametrize("login", [None, Login("jobs", "guessed"), Login("nobody", "open sesame")])
def test_an_etcd_that_knows_users_refuses_others(tmp_path, login):
    cluster = Cluster(tmp_path)
    try:
        cluster.know_users("jobs", "open sesame")
        with pytest.raises(
            TransportError, match=r"etcd refuses.*\n.*\n.*\n.*--etcd-user"
        ) as raised:
            Ledgers(cluster, login=login).candidate("first").take_office()
        assert not raised.value.retryable
        assert "sesame" not in f"{raised.value}{login!r}"
    finally:
        cluster.end()


def test_a_password_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(TransportError, match="--etcd-password-file"):
        login_of("jobs", str(tmp_path / "nothing"))


# The package is for those alone who keep their ledger in etcd.
def test_a_ledger_in_etcd_without_urllib3_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(TransportError, match=r"pip install 'dynatrain\[etcd\]'"):
        Etcd(("127.0.0.1:1",), PLAIN, office_deadlines(TIMEOUT_S))


def test_a_place_names_members_and_a_job():
    found = place_of("etcd://a:2379,[::1]:2380/run-7")

    assert found == Place(("a:2379", "[::1]:2380"), "run-7")


@pytest.mark.parametrize(
    "text", ["etcd://a:2379", "etcd://a:2379/", "etcd:///job", "etcd://a/job", "etcd://a:1/b/c"]
)
def test_a_place_without_members_or_a_job_is_refused(text):
    with pytest.raises(LayoutError, match="cannot use the ledger"):
        place_of(text)
