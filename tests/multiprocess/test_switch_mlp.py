"""The walking skeleton: a plain model goes from layout to layout, bit for bit."""

from __future__ import annotations

import pytest

import dynatrain
import training_jobs as jobs


def switch_between(rank, world_size, source, target):
    session = dynatrain.init(
        jobs.build, source, initialize=jobs.initialize, timeout_s=20, verify=("sums", "fingerprint")
    )
    before = after = None
    for step in session.steps(4):
        jobs.train_step(session.state, session.world, step)
        if step == 1:
            before = jobs.whole_state(session.state)
            report = session.switch(target)
            after = jobs.whole_state(session.state) if session.active else None
            summary = report.to_json()
    layout = str(session.layout)
    if not session.active:
        summary = None
    return before, after, layout, summary


# Law 1. If one element lands elsewhere, the run is another run from here on.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dp=4", "dp=2"),
        ("dp=4", "dp=2,tp=2"),
        ("dp=2,tp=2", "tp=4"),
        ("tp=4", "dp_replicate=2,dp=2"),
    ],
)
def test_law1_switch_keeps_every_bit(pool, source, target):
    results = pool.run(switch_between, source, target)

    for before, after, layout, summary in results:
        assert dynatrain.Layout.parse(layout) == dynatrain.Layout.parse(target)
        if after is not None:
            assert jobs.differences(before, after) == []
            assert summary["bytes_moved"] == summary["lower_bound_bytes"] > 0
            assert summary["fingerprint_before"] == summary["fingerprint_after"]
