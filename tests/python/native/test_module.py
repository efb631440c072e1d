"""What the bindings themselves promise, apart from the rooms behind them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import pytest

from dynatrain import _native
from dynatrain._errors import BudgetError, Error, LayoutError, TransportError


def table_of(name="w|param", shape=(8, 6), local=(2, 6), num_ranks=4):
    table = _native.StateTable()
    mesh = table.add_mesh([num_ranks], list(range(num_ranks)))
    strides = [local[1], 1]
    table.add_sharded(name, shape, "float32", 4, mesh, [(0, 1)], 64, local, strides)
    return table


def sharded_map():
    return _native.ShardMap.merge([(table_of().encode(), [0, 1, 2, 3])])


def replicated_map():
    table = _native.StateTable()
    table.add_whole("w|param", [8, 6], "float32", 4, 64, [6, 1])
    return _native.ShardMap.merge([(table.encode(), [0, 1, 2, 3])])


# The command line plans switches on machines without torch; the module itself must not need it.
def test_module_imports_without_torch():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('_native', {_native.__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "sys.modules['torch'] = None\n"
        "assert module.Layout.parse('dp=2,tp=2').world_size == 4\n"
        "assert not any(module.probe_c10d().values())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Users catch the package's classes, and builtin ones where an argument is at fault.
def test_errors_are_the_packages_classes():
    with pytest.raises(LayoutError, match="dp_shard") as caught:
        _native.Layout.parse("dp=0")
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ValueError)


# A program that reacts to an error reads its fields, not its text.
def test_budget_error_carries_both_numbers():
    source, target = sharded_map(), replicated_map()
    plan = _native.make_plan(source, target, 0)
    options = _native.ScheduleOptions(staging_budget_bytes=1)
    with pytest.raises(BudgetError) as caught:
        _native.make_schedule(plan, source, target, 1, options)
    assert caught.value.required_bytes > caught.value.budget_bytes == 1


# As above, for the peer.
def test_transport_error_carries_the_peer():
    world = _native.LoopbackWorld(2)
    token = world.transport(0).submit_receives([(1, 1, 0, 0)], 0.05)
    with pytest.raises(TransportError) as caught:
        token.wait(10.0)
    assert caught.value.peer == 1


# A misspelt axis must not be silently dropped.
def test_layout_refuses_unknown_words():
    with pytest.raises(TypeError, match="dp_shards"):
        _native.Layout(dp_shards=2)
    with pytest.raises(TypeError, match="tp cannot be '2'"):
        _native.Layout(tp="2")  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match="order names 2 axes"):
        _native.Layout(order=["pp", "tp"])


# Layouts travel between processes and are dictionary keys.
def test_layout_survives_pickling_and_hashing():
    layout = _native.Layout(dp_shard=3, pp=2, vpp=2, stages=[3, 2, 2, 1])
    again = pickle.loads(pickle.dumps(layout))
    assert again == layout
    assert hash(again) == hash(layout)
    assert again.stages == [3, 2, 2, 1]
    assert again != _native.Layout(dp_shard=3)
    assert layout != "dp=3"


# Ranks compare what is published; an address in it would make every rank differ.
def test_published_bytes_hold_no_address():
    one, other = _native.StateTable(), _native.StateTable()
    one.add_whole("w|param", [4], "float32", 4, 4096, [1])
    other.add_whole("w|param", [4], "float32", 4, 8192, [1])
    assert one.encode() == other.encode()
    assert one.hash() == other.hash()
    assert one.signature() != other.signature()
    assert one.data_ptrs() == {"w|param": 4096}


# Two tensors under one name would make one of them vanish from the switch.
def test_table_refuses_a_second_tensor_of_a_name():
    table = table_of()
    with pytest.raises(LayoutError, match=r"two live tensors .* 'w\|param'"):
        table.add_whole("w|param", [4], "float32", 4, 0, [1])
    with pytest.raises(LayoutError, match="no mesh has index 7"):
        table.add_sharded("v|param", [4], "float32", 4, 7, [(0, 1)], 0, [1], [1])
    with pytest.raises(LayoutError, match="elements of 0 bytes"):
        table.add_fragments("v|param", [4], "float32", 0, [([0], [4], 0, [1])], 0, 16)
    assert table.names() == ["w|param"]


# A transposed weight is not dense; reading it as dense would permute it.
def test_whole_strided_tensor_is_proved_by_its_strides():
    table, dense = _native.StateTable(), _native.StateTable()
    table.add_whole("w|param", [3, 4], "float32", 4, 64, [1, 3])
    dense.add_whole("w|param", [3, 4], "float32", 4, 64, [4, 1])
    shard_map = _native.ShardMap.merge([(table.encode(), [0])])
    shard_map.prove_live(0, table)
    with pytest.raises(LayoutError, match=r"w\|param"):
        shard_map.prove_live(0, dense)


# The map names each tensor once; asking for another name is the caller's mistake.
def test_map_refuses_unknown_names():
    with pytest.raises(LayoutError, match="no tensor 'v'"):
        sharded_map().info("v")
    stranger = _native.StateTable()
    stranger.add_whole("v", [4], "float32", 4, 0, [1])
    with pytest.raises(LayoutError, match="'v' is not in the map"):
        sharded_map().prove_live(0, stranger)


# Log lines come from threads of the core; the sink must get them and its errors must harm nobody.
def test_log_sink_may_be_set_and_removed():
    lines: list[tuple[int, str, str]] = []
    _native.set_log_sink(lambda *line: lines.append(line))
    _native.set_log_sink(None)
    with pytest.raises(TypeError):
        _native.set_log_sink()  # type: ignore[call-arg]


def execute(transport, maps, tables, results):
    rank, copier = transport.rank, _native.CpuCopier(1)
    executor = _native.Executor(transport, copier)
    plan = _native.make_plan(*maps, rank)
    options = _native.ScheduleOptions()
    schedule = _native.make_schedule(plan, *maps, 1, options)
    executor.agree(plan, 30.0)
    prepared = executor.prepare(plan, schedule, *maps, *tables, timeout_s=30.0)
    results[rank] = executor.run(prepared, timeout_s=30.0)


# The whole path through the module in one process: four threads, so the GIL must be free in waits.
@pytest.mark.parametrize("one_sided", [False, True])
def test_run_moves_bytes_between_tables(one_sided: bool):
    import numpy as np

    full = np.arange(48, dtype=np.float32).reshape(8, 6)
    shards = [np.ascontiguousarray(full[2 * r : 2 * r + 2]) for r in range(4)]
    columns = [np.zeros((8, 2), dtype=np.float32) for _ in range(3)]
    source_tables, target_tables = [], []
    for rank in range(4):
        source_table, target_table = _native.StateTable(), _native.StateTable()
        mesh = source_table.add_mesh([4], [0, 1, 2, 3])
        address = shards[rank].ctypes.data
        source_table.add_sharded("w", [8, 6], "float32", 4, mesh, [(0, 1)], address, [2, 6], [6, 1])
        if rank < 3:
            mesh = target_table.add_mesh([3], [0, 1, 2])
            address = columns[rank].ctypes.data
            head = ("w", [8, 6], "float32", 4, mesh)
            target_table.add_sharded(*head, [(1, 1)], address, [8, 2], [2, 1])
        source_tables.append(source_table)
        target_tables.append(target_table)
    source = _native.ShardMap.merge([(source_tables[0].encode(), [0, 1, 2, 3])])
    target = _native.ShardMap.merge([(target_tables[0].encode(), [0, 1, 2])])
    world = _native.LoopbackWorld(4, one_sided=one_sided)
    results: dict[int, _native.RunResult] = {}
    tables = list(zip(source_tables, target_tables, strict=True))
    threads = [
        threading.Thread(
            target=execute, args=(world.transport(r), (source, target), tables[r], results)
        )
        for r in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)

    assert sorted(results) == [0, 1, 2, 3]
    assert (np.concatenate(columns, axis=1) == full).all()
    before = sum(_native.fingerprint_share(source, r, source_tables[r]) for r in range(4))
    after = sum(_native.fingerprint_share(target, r, target_tables[r]) for r in range(3))
    assert before % 2**64 == after % 2**64 != 0


# A replica that drifted would make the result of a switch depend on which rank sends.
def test_replica_that_differs_is_named():
    import numpy as np

    same, other = np.ones(4, dtype=np.float32), np.array([1, 1, 2, 1], dtype=np.float32)
    tables = []
    for array in (same, same.copy(), other):
        table = _native.StateTable()
        table.add_whole("w|param", [4], "float32", 4, array.ctypes.data, [1])
        tables.append(table)
    shard_map = _native.ShardMap.merge([(tables[0].encode(), [0, 1, 2])])
    hashes = [_native.fragment_hashes(shard_map, r, t) for r, t in enumerate(tables)]
    (line,) = _native.compare_replicas(shard_map, hashes)
    assert "w|param" in line
    assert "2" in line
    with pytest.raises(LayoutError, match="do not parse"):
        _native.compare_replicas(shard_map, [hashes[0], hashes[1][:-1], hashes[2]])
