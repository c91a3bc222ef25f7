"""Laws of the device under random treatment: nothing is lost, everything can be undone, equal histories are equal."""

from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.register_map import CMD, wqcfg_offset
from pasidlab.timeline import Verb

LIST = 0x2000
CHILDREN = [
    Descriptor(Opcode.MEMMOVE, src=0x1000, dst=0x3800, size=0x1200, completion_addr=0x1000, flags=Flag.CRAV | Flag.RCR),
    Descriptor(Opcode.BATCH, src=LIST, size=2),
    Descriptor(Opcode.MEMFILL, src=7, dst=0x1F00, size=0x900),
    Descriptor(Opcode.NOOP, flags=Flag.FENCE),
]
WORKS = st.builds(
    Descriptor,
    opcode=st.sampled_from([Opcode.NOOP, Opcode.MEMMOVE, Opcode.MEMFILL, Opcode.BATCH]),
    src=st.integers(0, 0x4000) | st.just(LIST),
    dst=st.integers(0, 0x4000),
    size=st.integers(0, 0x1800) | st.integers(2, 4),
    completion_addr=st.sampled_from([0x1000, 0x3FE0, 0x8000, 0x11]),
    flags=st.sampled_from([0, Flag.CRAV, Flag.RCR | Flag.CRAV]),
    pasid=st.integers(4, 6),
    priv=st.integers(0, 1),
    int_handle=st.just(0),
    int_table=st.just(0),
    op_specific=st.just(0),
    rsvd=st.sampled_from([0, 0, 0, 1]),
)
ACTIONS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(0, 3), WORKS),
    st.tuples(st.just("post"), st.integers(0, 3), WORKS),
    st.tuples(st.just("command"), st.integers(0, 15), st.integers(0, 7)),
    st.tuples(st.just("program"), st.integers(0, 2), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just("run"), st.integers(0, 5), st.none()),
)


def apply(bench, action):
    name, number, argument = action
    if name == "enqueue":
        bench.enqueue(argument, number, limited=bool(number & 1))
    elif name == "post":
        bench.post(argument, number)
    elif name == "command":
        bench.device.mmio_write(CMD, number << 20 | argument, 4)
    elif name == "program":
        bench.device.mmio_write(wqcfg_offset(number, 2), argument, 4)
    elif number < len(bench.agenda.actions()):
        bench.agenda.run(bench.agenda.actions()[number].number)


def prepared(make_bench):
    bench = make_bench(shared=1, dedicated=2, wq_size=2)
    for page in (1, 2, 3):
        bench.map(5, page, 10 + page)
    bench.memory.write(12 * 4096, b"".join(child.to_bytes() for child in CHILDREN))
    bench.start(0, pasid_en=1)
    bench.start(1, pasid=5, pasid_en=1)
    return bench


@given(actions=st.lists(ACTIONS, max_size=25))
def test_every_descriptor_that_is_held_is_exactly_one_enabled_action(make_bench, actions):
    """Queues, work in flight and agenda agree after each step, and no queue holds more than its size."""
    bench = prepared(make_bench)
    device = bench.device
    for action in actions:
        apply(bench, action)
        waiting = [device.occupancy(wq) for wq in range(3)]
        assert len(bench.agenda.actions(device)) == sum(waiting) + len(device.in_flight())
        assert sorted(held.action for held in device.held()) == [one.number for one in bench.agenda.actions(device)]
        assert all(count <= 2 for count in waiting)
        assert all(device.wq_enabled(held.progress.wq) for held in device.held())


@given(actions=st.lists(ACTIONS, max_size=25))
def test_every_accepted_descriptor_completes_once_or_is_dropped(make_bench, actions):
    """What completed by itself or by draining, what was aborted and what is still here add up to what was accepted."""
    bench = prepared(make_bench)
    for action in actions:
        apply(bench, action)
    told = [event for event in bench.time.events if event.fact("batch_idx") is None]
    accepted = sum(event.verb is Verb.ACCEPT for event in told)
    completed = sum(event.verb is Verb.COMPLETE for event in told)
    dropped = sum(int(event.fact("count")) for event in told if event.verb is Verb.DRAIN and "abort" in event.subject)
    assert accepted == completed + dropped + len(bench.device.held())


@given(actions=st.lists(ACTIONS, max_size=25))
def test_every_step_ends_its_descriptor_or_leaves_it_in_flight(make_bench, actions):
    """Each EXECUTE event causes at most one COMPLETE event, and none where the descriptor goes on."""
    bench = prepared(make_bench)
    for action in actions:
        apply(bench, action)
    executed = [event.number for event in bench.time.events if event.verb is Verb.EXECUTE]
    ended = [event.cause for event in bench.time.events if event.verb is Verb.COMPLETE]
    assert len(set(ended)) == len(ended)
    assert set(ended) <= set(executed)


@given(actions=st.lists(ACTIONS, max_size=25), data=st.data())
def test_undo_and_redo_give_the_same_digest(make_bench, actions, data):
    """Going back to any point and forward again changes nothing."""
    bench = prepared(make_bench)
    journal = bench.time.journal
    points = [(journal.position, bench.time.digest())]
    for action in actions:
        apply(bench, action)
        points.append((journal.position, bench.time.digest()))
    position, digest = data.draw(st.sampled_from(points))
    journal.seek(position)
    assert bench.time.digest() == digest
    journal.seek(points[-1][0])
    assert bench.time.digest() == points[-1][1]


@given(actions=st.lists(ACTIONS, max_size=25))
def test_the_same_actions_give_the_same_events_and_digest(make_bench, actions):
    """Two devices that are treated alike tell the same story."""
    one, other = prepared(make_bench), prepared(make_bench)
    for action in actions:
        apply(one, action)
        apply(other, action)
    assert one.time.events == other.time.events
    assert one.time.digest() == other.time.digest()
