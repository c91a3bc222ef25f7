"""VMX PASID translation and its naive twin agree on random small memories: host PASID, or which failure of four."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pasidlab.hardware.cpu import PasidFailure, PasidTranslation, translate_pasid
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import Timeline

RAM = 16 * 0x1000
FRAMES = st.integers(0, 15).map(lambda number: number << 12)
PASIDS = st.sampled_from([0, 1, 0x3FF, 0x400, 0x7FFFF, 0x80000, 0x80400, 0xFFFFF]) | st.integers(0, 0xFFFFF)
HALF_WORDS = st.integers(0, 0xFFFFF).map(lambda host: 1 << 31 | host) | st.integers(0, 0xFFFF_FFFF)
ENTRIES = FRAMES.map(lambda frame: frame | 1) | st.integers(0, RAM) | st.integers(0, (1 << 64) - 1)


def twin(data: bytes, low: int, high: int, pasid: int) -> int | str:
    """The host PASID, or what is wrong: read off the bytes by division alone. Beyond memory every bit is one."""
    half, rest = divmod(pasid, 512 * 1024)
    number, index = divmod(rest, 1024)
    at = (high if half else low) + number * 8
    word = int.from_bytes(data[at : at + 8] or b"\xff" * 8, "little")
    if word % 2 == 0:
        return "DIRECTORY_NOT_PRESENT"
    if word % 4096 != 1:
        return "DIRECTORY_RESERVED"
    at = word - 1 + index * 4
    entry = int.from_bytes(data[at : at + 4] or b"\xff" * 4, "little")
    if entry < 1 << 31:
        return "ENTRY_NOT_VALID"
    return "ENTRY_RESERVED" if entry >= (1 << 31) + (1 << 20) else entry - (1 << 31)


def answer(translation: PasidTranslation) -> int | str | None:
    """What the model says, in the twin's words."""
    return translation.host_pasid if translation.failure is None else translation.failure.name


def memory_of(image: dict[int, int]) -> PhysicalMemory:
    """Memory with these 32-bit words in it."""
    memory = PhysicalMemory(Timeline(), "ram", RAM)
    for address, word in image.items():
        memory.store32(address, word)
    return memory


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[int, int], int, int, int]:
    """An image of 32-bit words, the two directories and a PASID; what the PASID leads to was mostly filled in."""
    low, high, pasid = draw(FRAMES), draw(FRAMES), draw(PASIDS)
    entry = draw(ENTRIES)
    slot = (high if pasid >> 19 else low) + 8 * (pasid >> 10 & 511)
    image = {slot: entry & 0xFFFF_FFFF, slot + 4: entry >> 32}
    leaf = (entry & ~0xFFF) + 4 * (pasid & 1023)
    if leaf < RAM:
        image.setdefault(leaf, draw(HALF_WORDS))
    return image, low, high, pasid


@given(worlds())
@example(({}, 0x1000, 0x2000, 5))
@example(({0x1000: 0x3001, 0x3004: 0x8000_0065}, 0x1000, 0x2000, 1))
@example(({0x1000: 0x1001, 0x1004: 0x8000_0065}, 0x1000, 0x1000, 0x80001))
def test_the_walk_equals_its_twin(world: tuple[dict[int, int], int, int, int]) -> None:
    """Also where a table lies over a directory, over itself, or outside memory."""
    image, low, high, pasid = world
    memory = memory_of(image)
    before = memory.read(0, RAM)
    translation = translate_pasid(memory, low, high, pasid)
    assert answer(translation) == twin(before, low, high, pasid)
    assert (translation.host_pasid is None) != (translation.failure is None)
    assert len(translation.stops) == (1 if str(answer(translation)).startswith("DIRECTORY") else 2)
    assert memory.read(0, RAM) == before


def test_every_pasid_of_a_full_directory_equals_the_twin() -> None:
    """One table behind every fourth directory entry of both halves: 2^20 numbers in steps of a prime."""
    image = {base + 8 * at: 0x5001 for base in (0x1000, 0x2000) for at in range(0, 512, 4)}
    image |= {0x5000 + 4 * at: 1 << 31 | at * 3 for at in range(0, 1024, 2)}
    memory = memory_of(image)
    data = memory.read(0, RAM)
    seen = set()
    for pasid in range(0, 1 << 20, 127):
        found = answer(translate_pasid(memory, 0x1000, 0x2000, pasid))
        assert found == twin(data, 0x1000, 0x2000, pasid), hex(pasid)
        seen.add(type(found) is int or found)
    assert seen == {True, PasidFailure.DIRECTORY_NOT_PRESENT.name, PasidFailure.ENTRY_NOT_VALID.name}
