"""Lines of kernel logs, over the generations of their wording, become events again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.amdvi.event_lines import read_events
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode
from pasidlab.hardware.pcie import format_rid

FORMATS = {
    EventCode.ILLEGAL_DEV_TABLE_ENTRY: "device={device} pasid=0x{number:05x} address=0x{address:x} flags=0x{flags:04x}",
    EventCode.IO_PAGE_FAULT: "device={device} domain=0x{number:04x} address=0x{address:016x} flags=0x{flags:04x}",
    EventCode.DEV_TAB_HARDWARE_ERROR: "device={device} address=0x{address:x} flags=0x{flags:04x}",
    EventCode.PAGE_TAB_HARDWARE_ERROR: "device={device} pasid=0x{number:04x} address=0x{address:x} flags=0x{flags:04x}",
    EventCode.ILLEGAL_COMMAND_ERROR: "address=0x{address:x}",
    EventCode.COMMAND_HARDWARE_ERROR: "address=0x{address:x} flags=0x{flags:04x}",
    EventCode.IOTLB_INV_TIMEOUT: "device={device} address=0x{address:x}",
    EventCode.INVALID_DEVICE_REQUEST: (
        "device=0000:{device} pasid=0x{number:05x} address=0x{address:x} flags=0x{flags:04x}"
    ),
    EventCode.INVALID_PPR_REQUEST: (
        "device={device} pasid=0x{number:05x} address=0x{address:x} flags=0x{flags:04x} tag=0x{tag:03x}"
    ),
    EventCode.RMP_PAGE_FAULT: (
        "device={device}, vmg_tag=0x0000, gpa=0x{address:x}, flags_rmp=0x0012, flags=0x{flags:04x}"
    ),
    EventCode.RMP_HW_ERROR: "device={device}, vmg_tag=0x0001, spa=0x{address:x}, flags=0x{flags:04x}",
}
"""What the kernel prints of each event between the brackets."""
BEGINNINGS = (
    "AMD-Vi: Event logged [",
    "[   12.345678] AMD-Vi: Event logged [",
    "[Fri Aug 28 16:55:06 2020] iommu ivhd0: AMD-Vi: Event logged [",
    "Sep  3 12:34:56 host kernel: [   12.345678] AMD-Vi: Event logged [",
    "> \tAMD-Vi: Event logged [",
    "AMD IOMMU: Event logged [",
)


@given(
    code=st.sampled_from(list(EventCode)),
    rid=st.integers(0, 0xFFFF),
    number=st.integers(0, 0xFFFF),
    flags=st.integers(0, 0xFFF),
    address=st.integers(0, (1 << 64) - 1),
    tag=st.integers(0, 0x3FF),
    begin=st.sampled_from(BEGINNINGS),
    broken=st.sampled_from([" ", "\n", " \n", "\n> ", "\n[   12.345679] ", "\nSep  3 12:34:56 host kernel: "]),
)
def test_what_a_kernel_prints_is_read_back(code, rid, number, flags, address, tag, begin, broken):
    """Every event, in every wording, broken anywhere between two words."""
    values = {"device": format_rid(rid), "number": number, "flags": flags, "address": address, "tag": tag}
    said = FORMATS[code]
    text = f"before\n{begin}{code.name} {said.format(**values)}]\nbehind\n".replace(" address", broken + "address")
    (event,) = read_events(text)
    told = {name: value for name, value in values.items() if f"{{{name}" in said}
    record = EventRecord(
        code,
        rid if "device" in told else 0,
        told.get("number", 0),
        told.get("flags", 0),
        told["address"],
        told.get("tag", 0),
    )
    assert event.code is code
    assert event.record == record
    assert event.pasid == (record.pasid if "number" in told else None)
    assert event.domain == (record.domain if "number" in told else None)
    assert event.interrupt is bool(record.flags & 8)


@pytest.mark.parametrize("begin", ["nvme 0000:03:00.0: ", "pci 03:00.0: ", "[  1.5] nvme 0000:03:00.0:\n"])
def test_the_device_may_stand_before_the_event(begin):
    """Spelled as in the log; the IOMMU's own name is no device."""
    line = "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0005 address=0x10 flags=0x0000]"
    (event,) = read_events(begin + line)
    assert event.device in ("0000:03:00.0", "03:00.0")
    assert event.record is not None
    assert event.record.rid == 0x0300
    (event,) = read_events("nvme 0000:03:00.0: up\niommu ivhd0: " + line)
    assert event.device is None


def test_a_dump_of_an_entry_belongs_to_the_event_before_it():
    """Four words, in any order of lines; three are none."""
    head = "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=c0:00.1 pasid=0x00000 address=0x0 flags=0x0008]\n"
    words = [f"[ 1.{at}] AMD-Vi: DTE[{at}]: {at + 1:016x}\n" for at in range(4)]
    first, second, third = read_events(head + "".join(words) + head + "".join(reversed(words)) + head + words[0])
    assert first.dte == second.dte == (1, 2, 3, 4)
    assert third.dte == ()


def test_a_dump_of_a_command_can_be_decoded():
    """Four words of 32 bits."""
    text = "AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x107c7c0]\n" + "".join(
        f"AMD-Vi: CMD[{at}]: {word}\n" for at, word in enumerate(("00001234", "30000005", "12345006", "00007f00"))
    )
    (event,) = read_events(text)
    assert event.illegal_command is not None
    assert event.illegal_command.pasid == 0x1234
    (event,) = read_events(text.replace("30000005", "00000005"))
    assert event.command == (5 << 32 | 0x1234, 0x7F00_1234_5006)
    assert event.illegal_command is None


def test_events_that_the_kernel_did_not_know():
    """Raw words are decoded; the oldest wording tells a number only."""
    words = "event[0]=0x00000108 event[1]=0x20200007 event[2]=0x00005000 event[3]=0x00000001"
    (event,) = read_events(f"AMD-Vi: Event logged [UNKNOWN {words}\n")
    assert event.code is None
    assert event.record == EventRecord(2, 0x108, 7, 0x20, 0x1_0000_5000)
    (event,) = read_events("AMD-Vi: Event logged [UNKNOWN type=0x0f]")
    assert (event.record, event.address, event.pasid, event.type) == (None, None, None, None)


def test_a_line_that_was_cut_off_tells_what_it_has():
    """Missing numbers are missing."""
    (event,) = read_events("AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.0 domain=0x0002 addr")
    assert (event.device, event.domain, event.address, event.flags) == ("05:00.0", 2, None, 0)
