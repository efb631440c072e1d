"""What `dynatrain resize` and `drain` are told: a question that cannot be met changes nothing."""

from __future__ import annotations

import pytest

from dynatrain import LayoutError
from dynatrain.elastic.wishes import Wishes
from dynatrain.layout import Layout
from paper_job import PaperJob

SETTLED_MS = 5000


@pytest.fixture
def job(monkeypatch):
    """Four members of which three train, as somebody has wished for."""
    made = PaperJob(monkeypatch, "dp=2,tp=2", "dp=3", "dp=2")
    made.add(4)
    made.ask("resize", layout="dp=3")
    made.go_on(SETTLED_MS)
    assert made.world == "dp=3"
    return made


# It took the place of the wish before, and the job went to a layout that nobody had asked for.
def test_a_layout_that_is_not_in_the_list_is_refused_and_the_former_wish_stays(job):
    answer = job.ask("resize", layout="dp=4")
    job.go_on(SETTLED_MS)

    assert "none of the coordinator's layouts: dp=2,tp=2; dp=3; dp=2" in answer["error"]
    assert "the job still goes to dp=3" in answer["error"]
    assert job.ask("status")["wish"] == "dp=3"
    assert job.world == "dp=3"


def test_a_script_that_asks_for_a_layout_beyond_the_list_is_told_at_once(job):
    def ask(question):
        answer = job.coordinator._answer(question)
        if "error" in answer:
            raise LayoutError(answer["error"])
        return answer

    future = Wishes(ask, poll_s=0.01).wish(Layout(dp=4))

    with pytest.raises(LayoutError, match="none of the coordinator's layouts"):
        future.result(10.0)


# The layout counts for the list, and not how it is spelt.
def test_a_layout_of_the_list_may_be_spelt_otherwise(job):
    assert "error" not in job.ask("resize", layout="tp=2,dp=2,pp=1")
    job.go_on(SETTLED_MS)

    assert job.world == "dp=2,tp=2"


def test_a_wish_for_more_members_than_there_are_is_kept_and_says_so(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2", "dp=3")
    job.add(2)
    answer = job.ask("resize", layout="dp=3")["answer"]

    assert "dp=3 needs 3 members, 2 are there: the wish is kept" in answer
    job.go_on(SETTLED_MS)
    assert job.world == "dp=2"
    job.add()
    job.go_on(SETTLED_MS)
    assert job.world == "dp=3"


# One that leaves is there, and no world is made of it any more.
def test_who_leaves_is_not_counted_for_a_wish(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    job.add(2)
    job.ask("drain", rank=1)

    assert "dp=2 needs 2 members, 1 is there" in job.ask("resize", layout="dp=2")["answer"]


def test_a_wish_that_is_taken_back_says_who_decides(job):
    assert "the list of layouts decides" in job.ask("resize", layout="")["answer"]


# It said "more members may join or leave, at most 0 s", and nothing came of it.
def test_a_drain_that_leaves_too_few_says_who_trains_on(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2")
    job.add(2)
    answer = job.ask("drain", rank=1)

    assert answer["answer"] == (
        "rank 1 (member 2, host-2) is to leave, and trains on until others come: without it 1 is "
        "there, and dp=2, the smallest layout of the list, needs 2"
    )
    job.add()
    job.go_on(SETTLED_MS)
    assert [each["id"] for each in job.ask("status")["members"]] == [1, 3]


def test_a_drain_that_can_be_followed_says_so(job):
    assert job.ask("drain", rank=2)["answer"].endswith(
        "leaves with the next change, and its process ends"
    )


@pytest.mark.parametrize("rank", [3, -1, "1", None, True])
def test_a_rank_that_is_none_is_refused(job, rank):
    assert "there is no rank" in job.ask("drain", rank=rank)["error"]


# A spare has no rank: who wanted its machine back had to find the process and kill it.
def test_a_spare_is_drained_by_its_member(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2")
    job.add(3)
    job.go_on(SETTLED_MS)
    answer = job.ask("drain", member=3)["answer"]

    assert answer == "member 3 had no place in the world: it leaves, and its process ends"
    job.go_on(SETTLED_MS)
    assert [each["id"] for each in job.ask("status")["members"]] == [1, 2]
    assert job.world == "dp=2"


def test_a_rank_is_drained_by_its_member_too(job):
    assert job.ask("drain", member=3)["answer"].startswith("rank 2 (member 3, host-3) leaves")


@pytest.mark.parametrize("member", [0, 9, "3", True, 3.0])
def test_a_member_that_is_none_is_refused(job, member):
    assert "there is no member" in job.ask("drain", member=member)["error"]


# Nothing was changed by it, and the command said that all was well.
def test_a_rank_that_is_lost_is_not_drained(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2")
    _, second = job.add(2)
    job.kill(second)

    assert "its member 2 is lost already" in job.ask("drain", rank=1)["error"]


@pytest.mark.parametrize("question", [("resize", {"layout": "dp=2"}), ("drain", {"rank": 0})])
def test_a_job_that_has_finished_is_asked_for_nothing(monkeypatch, question):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    first, _ = job.add(2)
    first.do(first.machine.script_finished(job.now_ms))
    job.go_on(SETTLED_MS)

    kind, facts = question
    assert "the job has finished" in job.ask(kind, **facts)["error"]
    assert job.ask("status")["phase"] == "finished"
