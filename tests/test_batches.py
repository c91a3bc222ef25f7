"""``app.batch``: several copies with one submission, natively and in guests, and what is left when it ends."""

import pytest

from pasidlab import Machine
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World


class Native(World):
    """A host process that is bound to dsa0, with a source and a destination."""

    def __init__(self, **options):
        super().__init__(**options)
        self.app = self.m.spawn("app")
        self.app.bind(self.dsa)
        self.src, self.dst = self.app.buffer(bytes(range(1, 201)) * 50), self.app.buffer(10_000)

    def copies(self, *sizes):
        """Copies one behind the other."""
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        return [(self.src + start, self.dst + start, size) for start, size in zip(starts, sizes, strict=True)]


def test_all_copies_are_made_and_told():
    """One outcome each, and the batch's: number and bytes."""
    world = Native()
    done = world.app.batch(world.dsa, world.copies(10, 5000, 100))
    assert done.ok
    assert (done.completed, done.copied, [copy.copied for copy in done.copies]) == (3, 5110, [10, 5000, 100])
    assert world.app.read(world.dst, 5110) == world.app.read(world.src, 5110)
    assert repr(done) == "<3 copies, 5110 bytes>"


def test_it_leaves_no_memory_behind():
    """The list's buffer is freed, also when the submission is refused."""
    world = Native()
    world.app.batch(world.dsa, world.copies(1, 1))
    mappings = [mapping.virtual for mapping in world.app.process.mm.table.mappings()]
    world.app.batch(world.dsa, world.copies(1, 1))
    world.app.unbind(world.dsa)
    world.refused(world.app.batch, world.dsa, world.copies(1, 1))
    assert [mapping.virtual for mapping in world.app.process.mm.table.mappings()] == mappings


def test_the_device_refuses_a_list_of_one():
    """DESC_CNT_ERANGE; a program would submit the descriptor itself."""
    world = Native()
    done = world.app.batch(world.dsa, world.copies(5))
    assert (done.status, done.copies[0].completion) == (CompletionStatus.DESC_CNT_ERANGE, None)
    assert repr(done) == "<DESC_CNT_ERANGE after 0 of 1 copies, 0 bytes>"


def test_the_longest_list_fits():
    """32 copies, and 33 are the device's to refuse."""
    world = Native()
    assert world.app.batch(world.dsa, world.copies(*[3] * 32)).completed == 32
    assert world.app.batch(world.dsa, world.copies(*[3] * 33)).status is CompletionStatus.DESC_CNT_ERANGE


def test_fence_stops_behind_a_failure():
    """Without it the others are made."""
    world = Native()
    copies = [(world.src, world.dst, 5), (0, world.dst, 5), (world.src, world.dst + 8, 5)]
    assert [copy.ok for copy in world.app.batch(world.dsa, copies).copies] == [True, False, True]
    done = world.app.batch(world.dsa, copies, fence=True)
    assert [copy.status.name for copy in done.copies] == ["SUCCESS", "PAGE_FAULT_NOBOF", "NONE"]
    assert (done.status, done.completed) == (CompletionStatus.BATCH_FAIL, 2)


def test_pages_that_are_missing_are_asked_for():
    """With block_on_fault, each where it is needed."""
    world = Native()
    late = world.app.buffer(3 * 4096, populate=False)
    done = world.app.batch(world.dsa, [(world.src, late, 9000), (world.src, late + 9000, 10)], block_on_fault=True)
    assert (done.ok, done.copied) == (True, 9010)
    assert world.app.read(late, 9000) == world.app.read(world.src, 9000)


def test_only_its_own_steps_run():
    """Copies of others, in the queue or in flight, stay where they are."""
    world = Native()
    world.app.submit(world.dsa, world.src, world.dst, 9000)
    world.m.run(world.m.pending[0].number)
    world.app.submit(world.dsa, world.src, world.dst, 9000)
    assert world.app.batch(world.dsa, world.copies(5000, 5000)).ok
    assert world.app.copy(world.dsa, world.src, world.dst, 9000).ok
    assert [held.progress.done for held in world.m.accelerators["dsa0"].held()] == [4096, 0]


@pytest.mark.parametrize("copies", [
    None, [], "x", 7, [1], [(1, 2)], [(1, 2, 3, 4)], [(1, 2, 0)], [(1, 2, 1 << 32)], [(-1, 2, 3)], [(1, 1 << 64, 3)],
    [(1, 2, True)], [(1, 2, 3.0)], {1: 2},
], ids=repr)  # fmt: skip
def test_what_no_list_can_hold_is_einval_and_changes_nothing(copies):
    """No buffer is made for it."""
    world = Native()
    before = world.time.digest()
    assert world.refused(world.app.batch, world.dsa, copies).name == "EINVAL"
    assert world.refused(world.app.submit_batch, world.dsa, copies).name == "EINVAL"
    assert world.time.digest() == before


def test_the_errors_are_those_of_a_copy():
    """Not bound: #GP. A device that is not here: -ENODEV. Exited: -ESRCH."""
    world = Native()
    other = world.m.spawn("other")
    place = other.buffer(10)
    assert world.refused(other.batch, world.dsa, [(place, place, 1), (place, place, 1)]).name == "EFAULT"
    assert world.refused(other.batch, "dsa7", [(place, place, 1)]).name == "ENODEV"
    other.exit()
    assert world.refused(other.batch, world.dsa, [(place, place, 1)]).name == "ESRCH"


def test_a_ticket_tells_what_has_been_done_so_far():
    """Step by step."""
    world = Native()
    ticket = world.app.submit_batch(world.dsa, world.copies(10, 10, 10))
    for done in range(3):
        assert [copy.ok for copy in ticket.outcome().copies] == [True] * done + [False] * (3 - done)
        world.m.run(world.m.pending[0].number)
    assert ticket.outcome().completed == 3
    world.app.free(ticket.place)


def test_the_recorded_line_repeats_it():
    """A batch can be written down and replayed: same digest."""
    world = Native()
    world.app.batch(world.dsa, [(world.src, world.dst, 5), (world.src, world.dst + 5, 5)])
    lines = [operation.line for operation in world.time.operations]
    space = {"Machine": Machine}
    exec("\n".join(lines), space)
    assert space["m"].timeline.digest() == world.time.digest()


def test_two_guests_batches_run_in_turn_and_stay_apart():
    """Both have PASID 1; each list is read from its own guest's memory, each byte lands there."""
    world = TwoVms()
    tickets, places = [], []
    for app, adi, word in ((world.app1, world.adi1, b"vm1"), (world.app2, world.adi2, b"vm2")):
        src, dst = app.buffer(word * 2000), app.buffer(6000)
        tickets.append(app.submit_batch(adi, [(src, dst, 4500), (src, dst + 4500, 1500)]))
        places.append((app, dst, word))
    world.m.run()
    assert [ticket.outcome().ok for ticket in tickets] == [True, True]
    assert [app.read(dst, 6000) == word * 2000 for app, dst, word in places] == [True, True]
    steps = [event.fact("pasid") for event in world.since(0) if event.verb is Verb.EXECUTE]
    assert steps[0] != steps[2]
    assert world.m.check().ok
