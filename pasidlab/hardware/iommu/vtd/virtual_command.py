"""The virtual command registers: how a guest asks its hypervisor for a PASID.

Models VCCAP, VCMD and VCRSP as an emulated unit offers them. Two layouts exist. The older one (intel/qemu-dcp, Linux
before commit 4d99efb229e6) has VCCAP at 0xe00; specification revision 3.3 moved the registers, the operand and the
status codes, and added operand B (0xe08), which keeps what is stored there and which no PASID command uses. Guest and
hypervisor must agree on one.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.layouts.vtd import VCMD_LEGACY, VCMD_REV33, VCRSP_LEGACY, VCRSP_REV33

__all__ = ["VCMD_ALLOC", "VCMD_AT_E00", "VCMD_AT_E10", "VCMD_FREE", "VirtualCommandInterface"]

VCMD_ALLOC = 1
"""Command: allocate a PASID."""
VCMD_FREE = 2
"""Command: free the PASID in the operand."""


class VirtualCommandInterface(NamedTuple):
    """Where the registers lie, how command and response are laid out, and what the status codes are.

    ``operand_b`` is ``None`` in the layout that does not have it.
    """

    name: str
    vccap: int
    vcmd: int
    vcrsp: int
    command: Layout
    response: Layout
    success: int
    undefined: int
    no_pasid: int
    operand_b: int | None = None

    @property
    def range(self) -> tuple[int, int]:
        """The first offset of the registers, and the first behind them."""
        return min(self.vccap, self.vcmd), max(self.vccap, self.vcmd, self.vcrsp) + 8

    def request(self, command: int, pasid: int = 0) -> int:
        """The word to write to VCMD.

        >>> hex(VCMD_AT_E10.request(VCMD_FREE, 0x12345)), hex(VCMD_AT_E00.request(VCMD_FREE, 0x12345))
        ('0x1234502', '0x123450002')
        """
        return self.command.encode(CMD=command, PASID=pasid)[0]

    def answer(self, status: int, pasid: int = 0) -> int:
        """The word that VCRSP shows when the command is done.

        >>> hex(VCMD_AT_E10.answer(VCMD_AT_E10.no_pasid)), hex(VCMD_AT_E00.answer(0, 5))
        ('0x4', '0x50000')
        """
        return self.response.encode(SC=status, PASID=pasid)[0]


VCMD_AT_E10 = VirtualCommandInterface("legacy", 0xE00, 0xE10, 0xE20, VCMD_LEGACY, VCRSP_LEGACY, 0, 1, 2)
"""The older layout: VCMD at 0xe10."""

VCMD_AT_E00 = VirtualCommandInterface("rev33", 0xE30, 0xE00, 0xE10, VCMD_REV33, VCRSP_REV33, 0, 1, 16, 0xE08)
"""The layout from revision 3.3 on: VCMD at 0xe00. Its code for an undefined command is UNVERIFIED."""
