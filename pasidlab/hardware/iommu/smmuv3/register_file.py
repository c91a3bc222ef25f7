"""Where the registers of an SMMU lie, and which of their bits software can change.

Models the register map as a table of 32-bit words: name, bits that a store replaces, and while which bit of CR0 is set
a store is ignored (tables and queues must not move under a running unit; specification, chapter 6, where a store is
then CONSTRAINED UNPREDICTABLE). Follows Linux 6.1 ``arm-smmu-v3.h``. A 64-bit register is two rows. The producer and
consumer indices of event and PRI queue are on the second page of 64 KiB only.

Left out: the secure and realm halves, performance counters, IDR2, IDR4, STATUSR, the STRTAB registers' hints beyond
being stored, and address translation by software (GATOS).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.smmu import CR0_REG
from pasidlab.timeline import Table

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
    from pasidlab.timeline import Timeline

__all__ = [
    "ATSCHK",
    "BASE",
    "CMDQEN",
    "CMDQ_BASE",
    "CMDQ_CONS",
    "CMDQ_PROD",
    "CR0",
    "CR0ACK",
    "CR1",
    "CR2",
    "EVTQEN",
    "EVTQ_BASE",
    "EVTQ_CONS",
    "EVTQ_IRQ_CFG0",
    "EVTQ_PROD",
    "GBPA",
    "GERROR",
    "GERRORN",
    "GERROR_IRQ_CFG0",
    "IDR0",
    "IDR1",
    "IDR3",
    "IDR5",
    "IRQ_CTRL",
    "IRQ_CTRLACK",
    "PRIQEN",
    "PRIQ_BASE",
    "PRIQ_CONS",
    "PRIQ_IRQ_CFG0",
    "PRIQ_PROD",
    "SIZE",
    "SMMUEN",
    "STRTAB_BASE",
    "STRTAB_BASE_CFG",
    "Register",
    "RegisterFile",
    "register_rows",
]

BASE: Final = 0xFED6_0000
"""Where this model's machines put the registers: out of the way of memory (QEMU's ``virt`` has them at 0x9050000)."""
SIZE: Final = 0x2_0000
"""Two pages of 64 KiB."""
IDR0: Final = 0x00
IDR1: Final = 0x04
IDR3: Final = 0x0C
IDR5: Final = 0x14
CR0: Final = 0x20
CR0ACK: Final = 0x24
CR1: Final = 0x28
CR2: Final = 0x2C
GBPA: Final = 0x44
IRQ_CTRL: Final = 0x50
IRQ_CTRLACK: Final = 0x54
GERROR: Final = 0x60
GERRORN: Final = 0x64
GERROR_IRQ_CFG0: Final = 0x68
STRTAB_BASE: Final = 0x80
STRTAB_BASE_CFG: Final = 0x88
CMDQ_BASE: Final = 0x90
CMDQ_PROD: Final = 0x98
CMDQ_CONS: Final = 0x9C
EVTQ_BASE: Final = 0xA0
EVTQ_PROD: Final = 0x1_00A8
EVTQ_CONS: Final = 0x1_00AC
EVTQ_IRQ_CFG0: Final = 0xB0
PRIQ_BASE: Final = 0xC0
PRIQ_PROD: Final = 0x1_00C8
PRIQ_CONS: Final = 0x1_00CC
PRIQ_IRQ_CFG0: Final = 0xD0

SMMUEN: Final = CR0_REG["SMMUEN"].mask
PRIQEN: Final = CR0_REG["PRIQEN"].mask
EVTQEN: Final = CR0_REG["EVTQEN"].mask
CMDQEN: Final = CR0_REG["CMDQEN"].mask
ATSCHK: Final = CR0_REG["ATSCHK"].mask

_ALL: Final = 0xFFFF_FFFF
_INDEX: Final = 0xF_FFFF
_OVERFLOW: Final = 1 << 31
_BASE_HIGH: Final = 0x400F_FFFF
_MESSAGE_HIGH: Final = 0xF_FFFF


class Register(NamedTuple):
    """One 32-bit word: which bits a store replaces, and which bits of CR0 protect it while they are set."""

    name: str
    writable: int = 0
    locked_by: int = 0
    reset: int = 0


def _message(name: str, offset: int) -> dict[int, Register]:
    """Address, data and attributes of an interrupt message."""
    return {
        offset: Register(f"{name}_IRQ_CFG0", _ALL & ~3),
        offset + 4: Register(f"{name}_IRQ_CFG0, upper", _MESSAGE_HIGH),
        offset + 8: Register(f"{name}_IRQ_CFG1", _ALL),
        offset + 12: Register(f"{name}_IRQ_CFG2", 0x3F),
    }


def _queue(name: str, offset: int, locked_by: int) -> dict[int, Register]:
    """The base of a queue."""
    return {
        offset: Register(f"{name}_BASE", _ALL, locked_by),
        offset + 4: Register(f"{name}_BASE, upper", _BASE_HIGH, locked_by),
    }


_ROWS: Final = {
    IDR0: Register("IDR0"),
    IDR1: Register("IDR1"),
    IDR3: Register("IDR3"),
    IDR5: Register("IDR5"),
    CR0: Register("CR0", SMMUEN | EVTQEN | CMDQEN),
    CR0ACK: Register("CR0ACK"),
    CR1: Register("CR1", 0xFFF),
    CR2: Register("CR2", 0xE),
    GBPA: Register("GBPA"),
    IRQ_CTRL: Register("IRQ_CTRL", 0b101),
    IRQ_CTRLACK: Register("IRQ_CTRLACK"),
    GERROR: Register("GERROR"),
    GERRORN: Register("GERRORN", 0x1FD),
    **_message("GERROR", GERROR_IRQ_CFG0),
    STRTAB_BASE: Register("STRTAB_BASE", _ALL & ~0x3F, SMMUEN),
    STRTAB_BASE + 4: Register("STRTAB_BASE, upper", _BASE_HIGH, SMMUEN),
    STRTAB_BASE_CFG: Register("STRTAB_BASE_CFG", 0x3_07FF, SMMUEN),
    **_queue("CMDQ", CMDQ_BASE, CMDQEN),
    CMDQ_PROD: Register("CMDQ_PROD", _INDEX),
    CMDQ_CONS: Register("CMDQ_CONS", _INDEX, CMDQEN),
    **_queue("EVTQ", EVTQ_BASE, EVTQEN),
    **_message("EVTQ", EVTQ_IRQ_CFG0),
    EVTQ_PROD: Register("EVTQ_PROD", _INDEX | _OVERFLOW, EVTQEN),
    EVTQ_CONS: Register("EVTQ_CONS", _INDEX | _OVERFLOW),
}
_PAGE_REQUEST_ROWS: Final = {
    **_queue("PRIQ", PRIQ_BASE, PRIQEN),
    **_message("PRIQ", PRIQ_IRQ_CFG0),
    PRIQ_PROD: Register("PRIQ_PROD", _INDEX | _OVERFLOW, PRIQEN),
    PRIQ_CONS: Register("PRIQ_CONS", _INDEX | _OVERFLOW),
}


def register_rows(identity: SmmuIdentity) -> dict[int, Register]:
    """The registers that a unit has, with what its identification registers say."""
    rows = dict(_ROWS)
    told = {IDR0: identity.idr0(), IDR1: identity.idr1(), IDR3: identity.idr3(), IDR5: identity.idr5()}
    for offset, word in told.items():
        rows[offset] = rows[offset]._replace(reset=word)
    if identity.ats:
        rows[CR0] = rows[CR0]._replace(writable=rows[CR0].writable | ATSCHK)
    if identity.pri:
        rows |= _PAGE_REQUEST_ROWS
        rows[CR0] = rows[CR0]._replace(writable=rows[CR0].writable | PRIQEN)
        rows[IRQ_CTRL] = rows[IRQ_CTRL]._replace(writable=0b111)
    return rows


class RegisterFile:
    """The journaled 32-bit words of one unit's registers; a word that is zero is not stored.

    >>> from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
    >>> from pasidlab.timeline import Timeline
    >>> registers = RegisterFile(Timeline(), "unit", register_rows(SmmuIdentity()))
    >>> registers.store(STRTAB_BASE, 0x5FFF), hex(registers[STRTAB_BASE]), registers.store(IDR0, 0)
    (True, '0x5fc0', False)
    """

    __slots__ = ("_rows", "_words")

    def __init__(self, timeline: Timeline, path: str, rows: dict[int, Register]) -> None:
        self._rows = rows
        self._words = Table[int, int](timeline, f"{path}.registers")
        for offset in sorted(rows):
            self[offset] = rows[offset].reset

    def __getitem__(self, offset: int) -> int:
        return self._words.get(offset, 0)

    def __setitem__(self, offset: int, word: int) -> None:
        """Set a word as hardware does, past all write protection."""
        old = self._words.get(offset, 0)
        if word == old:
            return
        if word:
            self._words[offset] = word
        else:
            del self._words[offset]

    def get64(self, offset: int) -> int:
        """The 64-bit register at ``offset``."""
        return self[offset] | self[offset + 4] << 32

    def store(self, offset: int, word: int) -> bool:
        """A store by software; whether there is a register that takes it now."""
        row = self._rows.get(offset)
        if row is None or not row.writable or row.locked_by & self[CR0]:
            return False
        self[offset] = self[offset] & ~row.writable | word & row.writable
        return True
