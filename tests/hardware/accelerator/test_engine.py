"""Execution: bytes that move, results that come back, and what a page fault leaves behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.operations import pieces
from pasidlab.hardware.accelerator.register_map import GENCAP
from pasidlab.hardware.config_space import PASID_CAPABILITY
from pasidlab.hardware.layouts import dsa

PASID = 5
RECORD = 0x9000
WORK = Descriptor(Opcode.NOOP, completion_addr=RECORD, pasid=PASID)
FRAMES = {1: 14, 2: 11, 3: 13, 4: 12, 9: 30}
"""Page -> frame for PASID 5: neighbouring pages lie in distant frames."""


@pytest.fixture
def bench(make_bench):
    return ready(make_bench())


def ready(bench):
    for page, frame in FRAMES.items():
        bench.map(PASID, page, frame)
    bench.start(0, pasid_en=1)
    return bench


def physical(address):
    return FRAMES[address >> 12] << 12 | address & 4095


def poke(bench, address, data):
    for index, byte in enumerate(data):
        bench.memory.write(physical(address + index), bytes([byte]))


def peek(bench, address, length):
    return b"".join(bench.memory.read(physical(address + index), 1) for index in range(length))


def run(bench, **fields):
    return bench.run(WORK._replace(**fields), physical(RECORD))


def test_noop_completes(bench):
    """Status 1, nothing else."""
    assert run(bench) == (CompletionStatus.SUCCESS, 0, 0, 0, 0)


def test_copy_crosses_page_borders_of_both_buffers(bench):
    """Source and destination cross pages at different places, and every byte arrives."""
    data = bytes(range(200)) * 2
    poke(bench, 0x1F80, data)
    done = run(bench, opcode=Opcode.MEMMOVE, src=0x1F80, dst=0x3FC3, size=400)
    assert (done.status, done.bytes_completed) == (CompletionStatus.SUCCESS, 400)
    assert peek(bench, 0x3FC3, 400) == data


def test_fill_repeats_its_pattern_across_a_border(bench):
    """The eight bytes repeat from the start of the destination, not from the page."""
    run(bench, opcode=Opcode.MEMFILL, src=int.from_bytes(b"ABCDEFGH", "little"), dst=0x1FFB, size=21)
    assert peek(bench, 0x1FFB, 21) == b"ABCDEFGHABCDEFGHABCDE"


def test_compare_tells_the_first_difference(bench):
    """Equal buffers give result 0; otherwise result 1 and the number of equal bytes."""
    poke(bench, 0x1FF0, bytes(range(40)))
    poke(bench, 0x3000, bytes(range(40)))
    equal = run(bench, opcode=Opcode.COMPARE, src=0x1FF0, dst=0x3000, size=40)
    assert (equal.status, equal.result, equal.bytes_completed) == (CompletionStatus.SUCCESS, 0, 40)
    poke(bench, 0x3000 + 33, b"\xff")
    differs = run(bench, opcode=Opcode.COMPARE, src=0x1FF0, dst=0x3000, size=40)
    assert (differs.status, differs.result, differs.bytes_completed) == (CompletionStatus.SUCCESS, 1, 33)


def test_compare_with_a_pattern(bench):
    """Memory is compared with a repeated eight-byte value."""
    pattern = int.from_bytes(b"12345678", "little")
    poke(bench, 0x1FFD, b"1234567812")
    assert run(bench, opcode=Opcode.COMPVAL, src=0x1FFD, dst=pattern, size=10).result == 0
    assert run(bench, opcode=Opcode.COMPVAL, src=0x1FFD, dst=pattern, size=11).bytes_completed == 10


def test_dualcast_writes_twice(bench):
    """Both destinations get the bytes; they must lie at the same place in their pages."""
    poke(bench, 0x1000, b"twice")
    run(bench, opcode=Opcode.DUALCAST, src=0x1000, dst=0x2010, op_specific=0x3010, size=5)
    assert (peek(bench, 0x2010, 5), peek(bench, 0x3010, 5)) == (b"twice", b"twice")
    wrong = run(bench, opcode=Opcode.DUALCAST, src=0x1000, dst=0x2010, op_specific=0x3020, size=5)
    assert wrong.status == CompletionStatus.DCAST_ERR


@given(
    src=st.integers(0x1000, 0x3F00),
    distance=st.integers(-300, 300),
    size=st.integers(1, 600),
)
def test_overlapping_copies_are_memmoves(make_bench, src, distance, size):
    """Whatever the overlap and the borders: the destination holds what the source held before."""
    dst = min(max(src + distance, 0x1000), 0x4FFF - size)
    src = min(src, 0x4FFF - size)
    bench = ready(make_bench())
    data = bytes(index * 7 % 251 for index in range(size))
    poke(bench, src, data)
    done = run(bench, opcode=Opcode.MEMMOVE, src=src, dst=dst, size=size)
    assert (done.status, done.bytes_completed) == (CompletionStatus.SUCCESS, size)
    assert peek(bench, dst, size) == data


@pytest.mark.parametrize(
    ("fields", "completed", "address", "write"),
    [
        ({"opcode": Opcode.MEMMOVE, "src": 0x4F00, "dst": 0x1000, "size": 0x200}, 0x100, 0x5000, 0),
        ({"opcode": Opcode.MEMMOVE, "src": 0x1000, "dst": 0x4F80, "size": 0x200}, 0x80, 0x5000, 1),
        ({"opcode": Opcode.MEMMOVE, "src": 0x8000, "dst": 0x1000, "size": 1}, 0, 0x8000, 0),
        ({"opcode": Opcode.MEMFILL, "dst": 0x4FFF, "size": 9}, 1, 0x5000, 1),
        ({"opcode": Opcode.COMPARE, "src": 0x1F00, "dst": 0x4F00, "size": 0x101}, 0x100, 0x5000, 0),
    ],
)
def test_a_page_fault_tells_where_and_how_far(bench, fields, completed, address, write):
    """Status 3 with the bytes done, the address, and whether it was a write; what was done stays done."""
    poke(bench, 0x4F00, b"\x11" * 0x100)
    poke(bench, 0x1F00, b"\x11" * 0x100)
    done = run(bench, **fields)
    assert done == (CompletionStatus.PAGE_FAULT_NOBOF, 0, completed, address, write)
    if fields["src" if "src" in fields else "dst"] == 0x4F00:
        assert peek(bench, 0x1000, 0x101) == b"\x11" * 0x100 + b"\0"


def test_a_read_only_destination_faults_as_a_write(bench):
    """The remapping unit's permission decides."""
    bench.map(PASID, 2, FRAMES[2], writable=False)
    done = run(bench, opcode=Opcode.MEMMOVE, src=0x1000, dst=0x2000, size=4)
    assert (done.status, done.write, done.fault_addr) == (CompletionStatus.PAGE_FAULT_NOBOF, 1, 0x2000)


def test_a_backward_copy_counts_from_the_end(bench):
    """An upward overlap runs from the end, and a fault says so in the result (unverified against silicon)."""
    done = run(bench, opcode=Opcode.MEMMOVE, src=0x0F80, dst=0x1000, size=0x100)
    assert (done.status, done.result, done.bytes_completed) == (CompletionStatus.PAGE_FAULT_NOBOF, 1, 0x100 - 0x80)
    assert done.fault_addr == 0x0F80


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"opcode": 0x77}, CompletionStatus.BAD_OPCODE),
        ({"opcode": Opcode.DRAIN}, CompletionStatus.BAD_OPCODE),
        ({"opcode": Opcode.BATCH, "src": 0x1020, "size": 2}, CompletionStatus.DESCLIST_ALIGN),
        ({"opcode": Opcode.BATCH, "src": 0x1000, "size": 1}, CompletionStatus.DESC_CNT_ERANGE),
        ({"opcode": Opcode.BATCH, "src": 0x1000, "size": 33}, CompletionStatus.DESC_CNT_ERANGE),
        ({"opcode": Opcode.BATCH, "src": 0x1000, "size": 0}, CompletionStatus.DESC_CNT_ERANGE),
        ({"opcode": Opcode.NOOP, "rsvd": 1}, CompletionStatus.NOZERO_RESERVE),
        ({"opcode": Opcode.MEMMOVE, "size": 0}, CompletionStatus.XFER_ERANGE),
        ({"opcode": Opcode.MEMMOVE, "size": (1 << 21) + 1}, CompletionStatus.XFER_ERANGE),
    ],
)
def test_descriptors_that_are_refused(bench, fields, status):
    """Each mistake has its status code, and no memory but the record changes."""
    assert run(bench, **fields) == (status, 0, 0, 0, 0)


def test_privileged_work_needs_the_capability(bench):
    """With privileged mode off in configuration space a privileged descriptor is refused."""
    assert run(bench, priv=1).status == CompletionStatus.SUCCESS
    bench.device.config.write(PASID_CAPABILITY + 4, 1 << 16)
    bench.enqueue(WORK._replace(priv=1, flags=Flag.CRAV))
    bench.agenda.run_all()
    assert bench.memory.read(physical(RECORD), 1)[0] == CompletionStatus.PRIV_BAD


def test_overlap_without_the_capability_is_refused(bench):
    """When GENCAP does not offer overlapping copies, an upward overlap gives status 0x16."""
    bench.device.set_fields(GENCAP, dsa.GENCAP, overlap_copy=0)
    done = run(bench, opcode=Opcode.MEMMOVE, src=0x1000, dst=0x1004, size=8)
    assert done.status == CompletionStatus.OVERLAP_BUFFERS


def test_a_record_is_written_only_when_asked_or_needed(bench):
    """CRAV without RCR: silence on success, a record on failure."""
    silent = WORK._replace(flags=Flag.CRAV)
    bench.enqueue(silent)
    bench.agenda.run_all()
    assert bench.memory.read(physical(RECORD), 32) == bytes(32)
    bench.enqueue(silent._replace(opcode=0x77))
    bench.agenda.run_all()
    assert bench.memory.read(physical(RECORD), 1)[0] == CompletionStatus.BAD_OPCODE


def test_memory_that_does_not_exist_is_a_hardware_error(bench):
    """A page that leads beyond memory ends with status 0x20, not with a page fault."""
    bench.map(PASID, 2, 1 << 20)
    assert run(bench, opcode=Opcode.MEMMOVE, src=0x2000, dst=0x1000, size=8).status == CompletionStatus.HW_ERR1


@given(st.lists(st.integers(0, 1 << 16), min_size=1, max_size=3), st.integers(1, 1 << 14), st.booleans())
def test_pieces_cover_a_transfer_once_and_never_cross_a_page(addresses, size, backwards):
    """The pieces are the whole transfer without gap or overlap, and none crosses a page of any address."""
    parts = list(pieces(tuple(addresses), size, backwards))
    if backwards:
        parts.reverse()
    assert [offset for offset, _ in parts] == [
        sum(length for _, length in parts[:index]) for index in range(len(parts))
    ]
    assert sum(length for _, length in parts) == size
    for offset, length in parts:
        assert length > 0
        for address in addresses:
            assert (address + offset) >> 12 == (address + offset + length - 1) >> 12
