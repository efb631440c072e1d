"""Host and device tensors take lanes of their own; a second host lane stands for a device's."""

from __future__ import annotations

import dynatrain
import training_jobs as jobs
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.generation.generation import Generation
from dynatrain.generation.lanes import DEVICE


def switch_over_two_lanes(rank, world_size):
    connect = Generation.connect

    def connect_both(generation, connection):
        connect(generation, connection)
        generation.maker._connection = f"{connection}/second"
        generation.lanes[DEVICE] = generation.maker._host_lane()

    Generation.connect = connect_both
    # On a GPU, this is where optimizer steps are.
    LiveTensors.host_names = lambda live: {name for name in live.tensors if name.endswith("|step")}
    session = dynatrain.init(
        jobs.build,
        "dp=4",
        initialize=jobs.initialize,
        timeout_s=20,
        verify=("sums", "fingerprint", "replicas"),
    )
    jobs.train_step(session.state, session.world, 0)
    before = jobs.whole_state(session.state)
    report = session.switch("dp=2,tp=2")
    routes = {span.phase for span in report.timeline} >= {"wire", "unpack"}
    differing = jobs.differences(before, jobs.whole_state(session.state))
    again = session.switch("dp=3")
    return (
        differing,
        routes,
        report.bytes_moved == report.lower_bound_bytes > 0,
        report.fingerprint_before == again.fingerprint_after,
        report.num_stages >= 2,
    )


# Were a tensor on both lanes or on none, it would arrive twice, or not at all.
def test_every_tensor_arrives_over_the_lane_of_its_memory(pool):
    results = pool.run(switch_over_two_lanes)
    pool.close()  # the workers' library is patched

    assert results == [([], True, True, True, True)] * 4
