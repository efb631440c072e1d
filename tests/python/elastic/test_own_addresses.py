"""What ``join`` is given: where the groups of a member listen, and what it shares with ``init``."""

from __future__ import annotations

import pytest
from torch._C._distributed_c10d import HashStore

import dynatrain
from dynatrain.generation.members import Members
from dynatrain.join import join

SECRET = "of this job, and long enough"


# Else it would be told by Gloo, in the middle of the job, on all members.
@pytest.mark.parametrize("address", ["192.0.2.1", "no such host", "0.0.0.0", "::", "", 7])
def test_an_address_of_another_machine_is_refused(tmp_path, address):
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(dynatrain.LayoutError, match="address of this machine"):
        join(lambda world: None, "127.0.0.1:1", secret_file=tmp_path / "secret", address=address)


# Who calls join looked for a call of init.
@pytest.mark.parametrize(
    "wrong", [{"mode": "both"}, {"transport": "shm"}, {"checkpoint_every": 5}, {"timeout_s": 0}]
)
def test_an_argument_is_refused_in_the_words_of_the_call(tmp_path, wrong):
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(dynatrain.LayoutError, match="session: join was given") as refused:
        join(lambda world: None, "127.0.0.1:1", secret_file=tmp_path / "secret", **wrong)
    assert "call join again" in str(refused.value)
    assert "init" not in str(refused.value)


def test_one_member_listens_elsewhere_alone():
    members = Members.of_ranks("some", 1, 3, HashStore()).listening_on("127.0.0.2")

    assert [member.address for member in members.each] == ["", "127.0.0.2", ""]
