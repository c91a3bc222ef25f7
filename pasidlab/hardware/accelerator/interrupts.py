"""Completion interrupts: two tables of messages, and who may have them sent.

A descriptor with RCI asks for an interrupt at its end, by a handle. Submitted through the lower portal pages the handle
is the number of an MSI-X vector: message in the MSI-X table, permission in the MSI-X permission table. Through the
upper ones it is an entry of interrupt message storage (IMS), which holds both. A permission is a PASID: without the
check any process that may submit could interrupt any other, by guessing handles.

=======  =================================  =====================================
table    entry                              who writes it
=======  =================================  =====================================
MSI-X    one for each queue and one more    the host
IMS      256                                the host, on behalf of mediated devices
=======  =================================  =====================================

Source: Linux ``drivers/dma/idxd/registers.h`` (union msix_perm, RCI, INT_HANDLE_INVAL), for IMS see the layout.

UNVERIFIED: the check is made when the operation has ended, and a success then becomes INT_HANDLE_INVAL (the device may
well look before it begins); an operation that failed otherwise keeps its code, and its interrupt is sent if it may be;
an entry with PASID enable clear is for requests without PASID; an entry that has no address yet holds its message back,
as a masked one does; when its address is cleared what was held back is forgotten. Left out: other causes than
completions (errors, commands, occupancy), interrupt remapping, the MSI-X table that VFIO emulates for a guest which has
the whole function (such a guest writes permissions, and its messages are held back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Flag
from pasidlab.hardware.layouts.dsa import IMS_ENTRY, MSIX_ENTRY, MSIX_PERM
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.accelerator.registers import AcceleratorRegisters
    from pasidlab.hardware.bits import Layout

__all__ = ["CompletionInterrupts", "Permission", "ims_offset"]

_CONTROL_DWORD: Final = 3
_DONE: Final = (CompletionStatus.SUCCESS, CompletionStatus.SUCCESS_PRED)


class Permission(NamedTuple):
    """Who may have an interrupt sent: requests with ``pasid`` (``None``: those without one), or with ``ignore`` all.

    >>> Permission(pasid=5).allows(5), Permission(pasid=5).allows(6), Permission(ignore=True).allows(6)
    (True, False, True)
    """

    pasid: int | None = None
    ignore: bool = False

    def allows(self, pasid: int | None) -> bool:
        """Whether work that runs under ``pasid`` may."""
        return self.ignore or pasid == self.pasid


def ims_offset(entry: int) -> int:
    """BAR0 offset of an entry of interrupt message storage.

    >>> hex(ims_offset(2))
    '0x4020'
    """
    return at.IMS + at.INTERRUPT_STRIDE * entry


class CompletionInterrupts:
    """The interrupt side of one device's registers, and the MMIO target of its pages of messages.

    Offset 0 is the MSI-X table. It has no state of its own: the tables are registers.
    """

    def __init__(self, registers: AcceleratorRegisters) -> None:
        self.path = f"{registers.path}.messages"
        self._registers = registers

    # --- at the end of a descriptor ---------------------------------------------------------------------------------

    def settle(self, work: Descriptor, pasid: int | None, completion: Completion) -> Completion:
        """How a descriptor ends that ended so, when the interrupt that it asks for is looked at as well."""
        if not work.flags & Flag.RCI or completion.status not in _DONE or self._allows(work, pasid):
            return completion
        return Completion(CompletionStatus.INT_HANDLE_INVAL)

    def send(self, work: Descriptor, pasid: int | None) -> None:
        """The descriptor has ended: send its interrupt, if it asks for one that it may have."""
        if work.flags & Flag.RCI:
            if self._allows(work, pasid):
                self._send(bool(work.int_table), work.int_handle)
            else:
                words = f"{self._words(bool(work.int_table), work.int_handle)} is not for PASID {pasid}"
                self._registers.emit(Verb.REFUSE, words, device=self._registers.path, pasid=pasid)

    def permission(self, ims: bool, handle: int) -> Permission | None:
        """What a table says about a handle; ``None`` when there is no such entry."""
        if not 0 <= handle < (at.IMS_ENTRIES if ims else self._vectors):
            return None
        if ims:
            entry = IMS_ENTRY.decode(self._registers.get_words(ims_offset(handle), IMS_ENTRY))
        else:
            offset = at.MSIX_PERM + handle * at.MSIX_PERM_STRIDE
            entry = MSIX_PERM.decode(self._registers.get_words(offset, MSIX_PERM))
        return Permission(entry["pasid"] if entry["pasid_en"] else None, bool(entry["ignore"]))

    def used(self) -> list[int]:
        """The entries of message storage in which anything is written."""
        offsets = self._registers.bar0.select(lambda offset: offset >= at.IMS)
        return sorted({(offset - at.IMS) // at.INTERRUPT_STRIDE for offset in offsets})

    @property
    def _vectors(self) -> int:
        return self._registers.num_wqs + 1

    def _allows(self, work: Descriptor, pasid: int | None) -> bool:
        permission = self.permission(bool(work.int_table), work.int_handle)
        return permission is not None and permission.allows(pasid)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _send(self, ims: bool, number: int) -> None:
        """Send a message now, or remember it while it is held back."""
        layout, offset = _place(ims, number)
        entry = layout.decode(self._registers.get_words(offset, layout))
        held = bool(entry["mask"]) or not entry["address"]
        facts = {"device": self._registers.path, "ims": ims, "entry": number, "address": entry["address"]}
        after = "held back" if held else f"vector {entry['data']:#x}"
        event = self._registers.emit(Verb.INTERRUPT, self._words(ims, number), None, after, **facts, data=entry["data"])
        self._set_pending(ims, number, held)
        if not held:
            with self._registers.timeline.because(event):
                self._registers.signal(entry["address"], entry["data"])

    def _words(self, ims: bool, number: int) -> str:
        return f"{self._registers.label} {'IMS entry' if ims else 'vector'} {number}"

    def _set_pending(self, ims: bool, number: int, pending: bool) -> None:
        if ims:
            self._registers.set_fields(ims_offset(number), IMS_ENTRY, pending=int(pending))
        else:
            offset, bit = at.MSIX_PBA + number // 64 * 8, 1 << number % 64
            word = self._registers.get(offset)
            self._registers.put(offset, word | bit if pending else word & ~bit)

    def _pending(self, ims: bool, number: int) -> bool:
        if ims:
            return bool(self._registers.field(ims_offset(number), IMS_ENTRY, "pending"))
        return bool(self._registers.get(at.MSIX_PBA + number // 64 * 8) >> number % 64 & 1)

    # --- software's stores ------------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load 4 or 8 bytes."""
        return self._registers.mmio_read(at.MSIX_TABLE + offset, size)

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes. What was held back is sent when it no longer is."""
        if size in (4, 8) and not offset % size:
            for step in range(0, size, 4):
                self._write(at.MSIX_TABLE + offset + step, value >> 8 * step & 0xFFFF_FFFF)

    def post64(self, offset: int, data: bytes) -> None:
        """There is no portal here: a 64-byte store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no portal here: retry."""
        return False

    def _write(self, offset: int, value: int) -> None:
        ims = offset >= at.IMS
        number, within = divmod(offset - (at.IMS if ims else at.MSIX_TABLE), at.INTERRUPT_STRIDE)
        if number >= (at.IMS_ENTRIES if ims else self._vectors):
            return
        layout, _ = _place(ims, number)
        mask = sum(field.mask for field in layout if field.name != "pending") >> 8 * within & 0xFFFF_FFFF
        self._registers.put32(offset, self._registers.get32(offset) & ~mask | value & mask)
        if ims and not self._registers.field(ims_offset(number), IMS_ENTRY, "address"):
            self._set_pending(ims, number, False)
        if within // 4 == _CONTROL_DWORD and not value & 1 and self._pending(ims, number):
            self._send(ims, number)


def _place(ims: bool, number: int) -> tuple[Layout, int]:
    """The layout of an entry's message, and where it lies."""
    if ims:
        return IMS_ENTRY, ims_offset(number)
    return MSIX_ENTRY, at.MSIX_TABLE + number * at.INTERRUPT_STRIDE
