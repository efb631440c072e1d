"""The two conformance suites of transports make the same claims.

The C++ suite runs over every transport that needs no torch; the c10d transport lives behind Python
and real processes, and has a suite of its own with tests of the same names.
"""

from __future__ import annotations

import re

from checkout import ROOT, read

CPP_SUITE = ROOT / "tests/cpp/transport/transport_conformance.cpp"
C10D_SUITE = ROOT / "tests/multiprocess/test_c10d_transport.py"
# Claims of the C++ suite that the c10d transport has no test of, and why.
NOT_FOR_C10D = {
    "failed_token_before_a_send_is_its_failure": "Python cannot make a token that fails",
    "one_sided_reads_what_the_peer_publishes": "c10d has no one-sided part",
    "one_sided_map_meets_the_publication_of_the_same_number": "c10d has no one-sided part",
    "one_sided_map_ends_with_the_reason_of_an_abort": "c10d has no one-sided part",
    "one_sided_map_fails_when_the_peer_dies": "c10d has no one-sided part",
}
# What the c10d suite claims beyond: processes, Python and the process group are its own.
ONLY_C10D = {
    "messages_above_two_gib_arrive_bit_for_bit",
    "token_ends_while_an_earlier_one_waits",
    "peers_take_no_threads_of_their_own",
    "wait_lets_other_python_threads_run",
    "dropped_transport_ends_its_messages",
    "group_by_name_works_and_wrong_rank_is_refused",
    "probe_finds_all_that_the_transport_stands_on",
}


def cpp_claims() -> set[str]:
    names = re.findall(r"^TEST_P\(TransportConformance, (\w+)\)", read(CPP_SUITE), re.MULTILINE)
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}


def c10d_claims() -> set[str]:
    return set(re.findall(r"^def test_(\w+)\(", read(C10D_SUITE), re.MULTILINE))


# A promise that is added to one suite and forgotten in the other holds for half of the transports.
def test_c10d_suite_has_every_claim_of_the_cpp_suite():
    assert len(cpp_claims()) > 10
    assert cpp_claims() - c10d_claims() == NOT_FOR_C10D.keys()


# A claim under another name would look like two, each tested on one transport only.
def test_c10d_suite_claims_nothing_else_unless_it_is_its_own():
    assert c10d_claims() - cpp_claims() == ONLY_C10D
