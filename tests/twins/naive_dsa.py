"""A batch carried out the obvious way: at once, byte by byte, on a plain bytearray. From the facts, section 6."""

from typing import NamedTuple

NOOP, MOVE, FILL, COMPARE = 0, 3, 4, 5
SUCCESS, PAGE_FAULT, BATCH_FAIL, BATCH_PAGE_FAULT, BAD_OPCODE, XFER = 1, 3, 5, 6, 0x10, 0x13
FENCE = 1
PAGE = 4096


class Child(NamedTuple):
    """What the twin looks at of a descriptor."""

    opcode: int
    src: int
    dst: int
    size: int
    flags: int


class Record(NamedTuple):
    """What the twin says of a completion record: status, result, bytes (or descriptors) done, write."""

    status: int
    result: int
    done: int
    write: int


class NaiveDsa:
    """Memory of which some pages are missing, and what a batch does to it."""

    def __init__(self, memory: bytearray, missing: set[int]) -> None:
        self.memory = memory
        self.missing = missing

    def batch(self, place: int, children: list[Child]) -> tuple[list[Record], Record]:
        """The records of those that ran, and the batch's own."""
        records: list[Record] = []
        for number, child in enumerate(children):
            failed = any(record.status != SUCCESS for record in records)
            if (place + 64 * number) // PAGE in self.missing:
                return records, Record(BATCH_PAGE_FAULT, 0, number, 0)
            if failed and child.flags & FENCE:
                return records, Record(BATCH_FAIL, 0, number, 0)
            records.append(self.one(child))
        failed = any(record.status != SUCCESS for record in records)
        return records, Record(BATCH_FAIL if failed else SUCCESS, 0, len(children), 0)

    def one(self, child: Child) -> Record:
        """Carry out one descriptor."""
        if child.opcode == NOOP:
            return Record(SUCCESS, 0, 0, 0)
        if child.opcode not in (MOVE, FILL, COMPARE):
            return Record(BAD_OPCODE, 0, 0, 0)
        if not child.size:
            return Record(XFER, 0, 0, 0)
        backwards = child.opcode == MOVE and child.src < child.dst < child.src + child.size
        order = range(child.size)
        for done, at in enumerate(reversed(order) if backwards else order):
            ended = self.byte(child, at)
            if ended is not None:
                return Record(ended.status, ended.result or int(backwards), done, ended.write)
        return Record(SUCCESS, 0, child.size, 0)

    def byte(self, child: Child, at: int) -> Record | None:
        """One byte of it; how it ended, if it did."""
        src, dst, memory = child.src + at, child.dst + at, self.memory
        if child.opcode != FILL and src // PAGE in self.missing:
            return Record(PAGE_FAULT, 0, 0, 0)
        if dst // PAGE in self.missing:
            return Record(PAGE_FAULT, 0, 0, int(child.opcode != COMPARE))
        if child.opcode == COMPARE:
            return Record(SUCCESS, 1, 0, 0) if memory[src] != memory[dst] else None
        memory[dst] = memory[src] if child.opcode == MOVE else child.src >> 8 * (at % 8) & 0xFF
        return None
