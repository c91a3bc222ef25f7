"""The command buffer: commands go in, a COMPLETION_WAIT says that they are done."""

import pytest

from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.layouts.amd import BUFFER_REG

RID = 0x6A08


def test_the_ring_has_512_commands_and_goes_round(bench):
    """More commands than fit, one after the other: each arrives, head and tail meet."""
    queue = bench.driver.queue
    bench.watch()
    for at in range(700):
        queue.submit(queue.pasid_pages(1, at % 1000))
    assert [command.pasid for (command,) in bench.unit.seen] == [at % 1000 for at in range(700)]
    length = BUFFER_REG["Length"].get((bench.mmio.read(reg.BASE + reg.CMD_BUF),))
    assert 1 << length == 512
    assert bench.mmio.read(reg.BASE + reg.CMD_HEAD) == bench.mmio.read(reg.BASE + reg.CMD_TAIL)


def test_a_batch_is_carried_out_in_order(bench):
    """What is submitted together is waited for together."""
    queue, done = bench.driver.queue, bench.driver.queue._done
    bench.watch()
    queue.submit(queue.device_entry(RID), queue.domain_pages(1), queue.device_pages(RID))
    assert bench.names == ["INVALIDATE_DEVTAB_ENTRY", "INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"]
    assert queue._done == done + 1


@pytest.mark.parametrize("words", [(0, 0), (0xF << 60, 0), (3 << 60 | 1 << 59, 0)])
def test_a_unit_that_stops_at_a_command_is_an_error(bench, words):
    """-EIO: the number did not arrive; the event log says why."""
    error = bench.refused(bench.driver.queue.submit, words)
    assert error.name == "EIO"
    bench.faults.service()
    assert "ILLEGAL_COMMAND_ERROR" in bench.faults.log.values()[0]


def test_a_device_that_does_not_answer_is_told_in_the_log(bench):
    """The command is done all the same: IOTLB_INV_TIMEOUT."""
    del bench.bus.endpoints[RID]
    bench.driver.queue.submit(bench.driver.queue.device_pages(RID))
    bench.faults.service()
    assert "IOTLB_INV_TIMEOUT device=0000:6a:01.0" in bench.faults.log.values()[-1]
