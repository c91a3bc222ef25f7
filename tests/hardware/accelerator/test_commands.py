"""The command register: what each command does, and which error code it gives when it cannot."""

import pytest

from pasidlab.hardware.accelerator import Command, CommandError, Descriptor, Opcode, queue_bitmap
from pasidlab.hardware.accelerator.register_map import CMD, CMDSTS
from pasidlab.hardware.config_space import COMMAND, PASID_CAPABILITY
from pasidlab.timeline import Verb

SHARED, DEDICATED = 0, 1
NOOP = Descriptor(Opcode.NOOP)


def test_enabling_twice_is_an_error(bench):
    """The device answers DEV_ENABLED and stays enabled."""
    assert bench.command(Command.ENABLE_DEVICE) == CommandError.SUCCESS
    assert bench.command(Command.ENABLE_DEVICE) == CommandError.DEV_ENABLED
    assert bench.device.enabled


def test_a_device_that_may_not_send_requests_cannot_be_enabled(bench):
    """Without bus mastering ENABLE_DEVICE gives BUSMASTER_EN."""
    bench.device.config.write(COMMAND, 0)
    assert bench.command(Command.ENABLE_DEVICE) == CommandError.BUSMASTER_EN
    assert not bench.device.enabled


def test_queues_cannot_be_larger_than_the_device(bench):
    """The sizes of all queues together are checked when the device is enabled."""
    bench.configure(SHARED, wq_size=17)
    assert bench.command(Command.ENABLE_DEVICE) == CommandError.WQ_SIZE_ERANGE


def test_disabling_a_disabled_device_is_an_error(bench):
    """DISABLE_DEVICE gives DIS_DEV_EN."""
    assert bench.command(Command.DISABLE_DEVICE) == CommandError.DIS_DEV_EN


@pytest.mark.parametrize(
    ("wq", "fields", "error"),
    [
        (5, {}, CommandError.INVAL_WQIDX),
        (SHARED, {"pasid_en": 0}, CommandError.PASID_EN),
        (SHARED, {"pasid_en": 1, "wq_thresh": 0}, CommandError.WQ_SIZE),
        (SHARED, {"pasid_en": 1, "wq_thresh": 17}, CommandError.WQ_SIZE),
        (DEDICATED, {"wq_size": 0}, CommandError.WQ_SIZE),
        (DEDICATED, {"priority": 0}, CommandError.WQ_PRIOR),
        (DEDICATED, {"max_batch_shift": 11}, CommandError.MAX_BATCH_SIZE),
        (DEDICATED, {}, CommandError.SUCCESS),
    ],
)
def test_what_enable_wq_refuses(bench, wq, fields, error):
    """Each configuration mistake has its code, and a refused queue stays disabled."""
    bench.command(Command.ENABLE_DEVICE)
    if fields:
        bench.configure(wq, **fields)
    assert bench.command(Command.ENABLE_WQ, wq) == error
    if wq < bench.device.num_wqs:
        assert bench.device.wq_enabled(wq) is (error is CommandError.SUCCESS)


def test_enable_wq_needs_an_enabled_device_and_a_disabled_queue(bench):
    """DEV_NOTEN before the device is enabled, WQ_ENABLED the second time."""
    assert bench.command(Command.ENABLE_WQ, DEDICATED) == CommandError.DEV_NOTEN
    bench.start(DEDICATED)
    assert bench.command(Command.ENABLE_WQ, DEDICATED) == CommandError.WQ_ENABLED


def test_pasids_need_the_pci_capability(bench):
    """While the PASID capability is off, a queue with PASID enable cannot be enabled."""
    bench.command(Command.ENABLE_DEVICE)
    bench.device.config.write(PASID_CAPABILITY + 4, 0)
    bench.configure(DEDICATED, pasid=5, pasid_en=1)
    assert bench.command(Command.ENABLE_WQ, DEDICATED) == CommandError.PASID_EN


@pytest.mark.parametrize("command", [Command.DISABLE_WQ, Command.DRAIN_WQ, Command.ABORT_WQ, Command.RESET_WQ])
def test_queue_commands_need_a_queue_and_an_enabled_device(bench, command):
    """An empty bitmap or an unknown queue gives INVAL_WQIDX, a disabled device DEV_NOT_EN."""
    assert bench.command(command, queue_bitmap(SHARED)) == CommandError.DEV_NOT_EN
    bench.command(Command.ENABLE_DEVICE)
    assert bench.command(command, 0) == CommandError.INVAL_WQIDX
    assert bench.command(command, queue_bitmap(SHARED) | queue_bitmap(5)) == CommandError.INVAL_WQIDX
    assert bench.command(command, queue_bitmap(SHARED) | queue_bitmap(DEDICATED)) == CommandError.SUCCESS


@pytest.mark.parametrize("number", [0, 13, 14, 31])
def test_unknown_commands(bench, number):
    """Commands outside CMDCAP give INVAL_CMD."""
    bench.device.mmio_write(CMD, number << 20, 4)
    assert bench.device.mmio_read(CMDSTS, 4) == CommandError.INVAL_CMD


@pytest.fixture
def loaded(bench):
    """Two queues with descriptors: shared for PASIDs 5 and 6, dedicated with PASID 5."""
    bench.start(SHARED, pasid_en=1)
    bench.start(DEDICATED, pasid=5, pasid_en=1)
    for pasid in (5, 6, 5):
        assert bench.enqueue(NOOP._replace(pasid=pasid))
    bench.post(NOOP)
    return bench


@pytest.mark.parametrize(
    ("command", "operand", "left"),
    [
        (Command.DRAIN_WQ, queue_bitmap(SHARED), (0, 1)),
        (Command.DRAIN_PASID, 5, (1, 0)),
        (Command.DRAIN_PASID, 99, (3, 1)),
        (Command.DRAIN_ALL, 0, (0, 0)),
        (Command.DISABLE_WQ, queue_bitmap(DEDICATED), (3, 0)),
        (Command.DISABLE_DEVICE, 0, (0, 0)),
    ],
)
def test_drain_and_disable_finish_what_waits(loaded, command, operand, left):
    """Exactly the named descriptors are executed and leave queue and agenda; the others go on waiting."""
    assert loaded.command(command, operand) == CommandError.SUCCESS
    assert (loaded.device.occupancy(SHARED), loaded.device.occupancy(DEDICATED)) == left
    assert len(loaded.agenda.actions()) == sum(left)
    assert loaded.verbs().count(Verb.COMPLETE) == 4 - sum(left)


@pytest.mark.parametrize(
    ("command", "operand", "left"),
    [
        (Command.ABORT_WQ, queue_bitmap(SHARED), (0, 1)),
        (Command.ABORT_PASID, 5, (1, 0)),
        (Command.ABORT_ALL, 0, (0, 0)),
        (Command.RESET_WQ, queue_bitmap(DEDICATED), (3, 0)),
        (Command.RESET_DEVICE, 0, (0, 0)),
    ],
)
def test_abort_and_reset_drop_what_waits(loaded, command, operand, left):
    """Exactly the named descriptors leave queue and agenda, and none of them is executed."""
    assert loaded.command(command, operand) == CommandError.SUCCESS
    assert (loaded.device.occupancy(SHARED), loaded.device.occupancy(DEDICATED)) == left
    assert len(loaded.agenda.actions()) == sum(left)
    assert Verb.EXECUTE not in loaded.verbs()


def test_what_remains_after_a_drain_can_still_run(loaded):
    """Draining one PASID leaves the other's actions intact."""
    loaded.command(Command.DRAIN_PASID, 5)
    loaded.agenda.run_all()
    assert loaded.device.occupancy(SHARED) == 0
    assert loaded.time.events[-1].fact("pasid") == 6


def test_disable_stops_submission_and_reset_forgets_the_pasid(loaded):
    """A disabled queue keeps its configuration, a reset one returns to power-on values."""
    loaded.command(Command.DISABLE_WQ, queue_bitmap(DEDICATED))
    assert not loaded.device.wq_enabled(DEDICATED)
    assert loaded.device.wq_pasid(DEDICATED) == 5
    loaded.command(Command.RESET_WQ, queue_bitmap(DEDICATED))
    assert loaded.device.wq_pasid(DEDICATED) is None


def test_reset_device_returns_to_power_on(bench, make_bench):
    """After RESET_DEVICE the registers are those of a new device, but for the command itself."""
    bench.start(SHARED, pasid_en=1)
    bench.enqueue(NOOP)
    assert bench.command(Command.RESET_DEVICE) == CommandError.SUCCESS
    fresh = make_bench()
    fresh.device.put32(CMD, bench.device.get32(CMD))
    assert bench.device.bar0.items() == fresh.device.bar0.items()
    assert bench.verbs().count(Verb.DISABLE) == 2


def test_every_step_of_a_command_can_be_undone(loaded):
    """Going back over a drain brings the descriptors back; going forward gives the same digest."""
    position, digest = loaded.time.journal.position, loaded.time.digest()
    loaded.command(Command.DRAIN_ALL)
    end, after = loaded.time.journal.position, loaded.time.digest()
    loaded.time.journal.seek(position)
    assert loaded.time.digest() == digest
    assert loaded.device.occupancy(SHARED) == 3
    loaded.time.journal.seek(end)
    assert loaded.time.digest() == after
