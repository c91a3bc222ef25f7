"""Commands as the unit understands them: from two words in the queue to a typed command, or to an error.

Models the decoder behind the command queue. Follows Linux 6.1 ``arm-smmu-v3.c`` (``arm_smmu_cmdq_build_cmd``) and
chapter 4 of the specification (IHI 0070). A command is ILLEGAL when its opcode is reserved, when the unit lacks what it
is for (stage 1, stage 2, ATS, PRI, stalls), when a parameter has a reserved value, or when a bit is set that belongs to
no field (which hardware may detect; this unit does). Commands of EL2, EL3 and the secure state are reserved here.

A range of pages (RIL) with TG given and NUM, SCALE and TTL all zero is reserved (a report on linux-kernel, August
2023, quotes the specification). TTL is a hint and not used; without RIL the fields of a range are ignored.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final, NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_ATC_INV,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_PRI_RESP,
    CMD_RESUME,
    CMD_STALL_TERM,
    CMD_SYNC,
    CMD_TLBI_NH_ALL,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    CMD_TLBI_NH_VAA,
    CMD_TLBI_S2_IPA,
    CMD_TLBI_S12_VMALL,
    COMMANDS,
)
from pasidlab.hardware.memory import PAGE_SHIFT
from pasidlab.hardware.pcie import WHOLE_SPACE, ResponseCode, format_rid

__all__ = ["PAGE_RESPONSES", "RETRY", "Command", "CommandError", "decode_command"]

RETRY: Final = 1
"""Bit 0 of CMD_RESUME.RESP: try again; bit 1 alone asks for an abort, 0 for a silent end."""
PAGE_RESPONSES: Final = {0: ResponseCode.FAILURE, 1: ResponseCode.INVALID, 2: ResponseCode.SUCCESS}
"""What the values of CMD_PRI_RESP.RESP become on the bus: the specification's names (4.5.2). The facts have Linux's,
"deny", "failure" and "success", which are not those of the bus: 0 stops the device's page request interface.
"""

_STAGE_1: Final = frozenset(
    layout.name
    for layout in (CMD_CFGI_CD, CMD_CFGI_CD_ALL, CMD_TLBI_NH_ALL, CMD_TLBI_NH_ASID, CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA)
)
_STAGE_2: Final = frozenset(layout.name for layout in (CMD_TLBI_S2_IPA, CMD_TLBI_S12_VMALL))
_STALLS: Final = frozenset(layout.name for layout in (CMD_RESUME, CMD_STALL_TERM))
_RANGES: Final = frozenset(layout.name for layout in (CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA, CMD_TLBI_S2_IPA))
_GRANULES: Final = {1: 12, 2: 14, 3: 16}
_EVERYTHING: Final = 52
_BY_CODE: Final = dict(COMMANDS)
_HIDDEN: Final = frozenset({"OP", "MSH", "MSIATTR", "TTL"})


@unique
class CommandError(IntEnum):
    """Why the command queue stopped: the value of CMDQ_CONS.ERR."""

    ILL = 1
    """The command is illegal."""
    ABT = 2
    """The command cannot be read."""
    ATC_INV = 3
    """A device did not answer an invalidation."""


class Command(NamedTuple):
    """One command from the queue.

    >>> from pasidlab.hardware.layouts.smmu_queue import CMD_TLBI_NH_VA
    >>> words = CMD_TLBI_NH_VA.encode(OP=0x12, ASID=5, addr=0x7000, leaf=1)
    >>> command = decode_command(words)
    >>> str(command), command.pages(SmmuIdentity()), command.layout is CMD_TLBI_NH_VA
    ('TLBI_NH_VA: ASID=0x5 leaf=0x1 addr=0x7000', (28672, 4096), True)
    """

    opcode: int
    layout: Layout
    words: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the specification calls it, without CMD."""
        return self.layout.name.removeprefix("smmu_cmd_").upper()

    def field(self, name: str) -> int:
        """The value of one field."""
        return self.layout[name].get(self.words)

    def fields(self) -> dict[str, int]:
        """All field values by name."""
        return self.layout.decode(self.words)

    def pages(self, identity: SmmuIdentity) -> tuple[int, int]:
        """The range that a command about addresses names: first byte and size."""
        at = self.fields()
        if self.layout is CMD_ATC_INV:
            if at["SIZE"] >= _EVERYTHING:
                return 0, WHOLE_SPACE
            size = 1 << PAGE_SHIFT + at["SIZE"]
            return at["ADDR"] & -size, size
        start = at["IPA"] if "IPA" in at else at["addr"]
        if not identity.ril or not at["TG"]:
            return start, 1 << PAGE_SHIFT
        granule = _GRANULES[at["TG"]]
        return start & -(1 << granule), (at["NUM"] + 1 << at["SCALE"]) << granule

    def __str__(self) -> str:
        values = [
            f"{field.name}={format_rid(value) if field.name == 'SID' else hex(value)}"
            for field, value in self.layout.explain(self.words)
            if value and field.name not in _HIDDEN
        ]
        return f"{self.name}: {' '.join(values)}".removesuffix(": ")


_NOTHING_LACKING: Final = SmmuIdentity()


def decode_command(words: tuple[int, ...], identity: SmmuIdentity = _NOTHING_LACKING) -> Command | CommandError:
    """The command in ``words``, or why there is none.

    >>> decode_command((0x7F, 0))
    <CommandError.ILL: 1>
    """
    layout = _BY_CODE.get(words[0] & 0xFF)
    if layout is None or layout.reserved(words):
        return CommandError.ILL
    command = Command(words[0] & 0xFF, layout, words)
    return command if _has(layout, identity) and _sound(command, identity) else CommandError.ILL


def _has(layout: Layout, identity: SmmuIdentity) -> bool:
    """Whether the unit has what the command is for."""
    if layout.name in _STAGE_1:
        return identity.s1p
    if layout.name in _STAGE_2:
        return identity.s2p
    if layout.name in _STALLS:
        return identity.stalls
    if layout is CMD_ATC_INV:
        return identity.ats
    return identity.pri or layout is not CMD_PRI_RESP


def _sound(command: Command, identity: SmmuIdentity) -> bool:
    """Whether no parameter has a reserved value."""
    layout, at = command.layout, command.fields()
    if layout is CMD_PRI_RESP:
        return at["RESP"] in PAGE_RESPONSES
    if layout is CMD_SYNC:
        return at["CS"] != _RESERVED_SIGNAL
    if layout.name in _RANGES and identity.ril and at["TG"]:
        return bool(at["NUM"] or at["SCALE"] or at["TTL"])
    return True


_RESERVED_SIGNAL: Final = 3
