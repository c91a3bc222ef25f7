"""A PCIe function behind the IOMMU: what every device has that carries PASIDs, and where a new kind of device begins.

A function has a place on the bus (its requester ID ``rid``), configuration space with the PASID, ATS and PRI
capabilities, a TLB of its own, registers in BAR0, and one way to memory, :meth:`Function.port`, on which each request
carries its requester ID and the PASID that the device was told. What it may reach is the IOMMU's decision.

A new kind of device derives from :class:`Function`, says who it is (``identity``), and overrides what it does
differently: :meth:`~Function.write_register` (what a store does), :meth:`~Function.run_enabled` (work that
:meth:`~Function.later` put on the list of enabled actions), :meth:`~Function.power_on` and
:meth:`~Function.page_answered`. All state lives in registers, or in tables and parts of the timeline, so that time
travel has it. ``docs/devices.md`` shows a whole one.

Left out: interrupts (who waits, polls), functions that share a device. UNVERIFIED: that a function-level reset empties
the device's TLB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pasidlab.hardware.config_space import ConfigSpace, PciIdentity
from pasidlab.hardware.device_tlb import DeviceTlb
from pasidlab.hardware.dma import DmaPort, PageMissing
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import (
    PASID_LIMIT,
    Access,
    DmaRequest,
    InvalidateRequest,
    PageGroupResponse,
    PageRequest,
    ResponseCode,
    format_rid,
)
from pasidlab.hardware.register_file import RegisterFile
from pasidlab.timeline import Table, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.fabric import Fabric
    from pasidlab.hardware.mmio import MmioTarget
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["Function", "SecondBar", "Slot"]


class Slot(NamedTuple):
    """Where a function is plugged in: its ``name`` and requester ID, the root complex, the list of enabled actions.

    ``ats``: whether it gets a TLB of its own, and can ask for pages.
    """

    timeline: Timeline
    agenda: Agenda
    fabric: Fabric
    name: str
    rid: int
    ats: bool = True


class SecondBar(NamedTuple):
    """BAR2: ``size`` bytes that ``target`` answers."""

    target: MmioTarget
    size: int


class Function(RegisterFile):
    """One function on the bus. Without overriding anything it is a memory of registers that does nothing.

    ``identity`` is what the kernel finds its driver by; BAR0 has ``bar0_size`` bytes.
    """

    actor = "device"
    identity: ClassVar[PciIdentity]
    bar0_size: ClassVar[int] = PAGE_SIZE

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot.timeline, slot.name)
        self.rid = slot.rid
        self.fabric = slot.fabric
        self.agenda = slot.agenda
        path = f"{slot.name}.config"
        self.config = ConfigSpace(slot.timeline, path, self.identity, ats=slot.ats, reset=self.function_level_reset)
        self.tlb = DeviceTlb(slot.timeline, f"{slot.name}.tlb")
        self.asked = Table[int, DmaRequest](slot.timeline, f"{slot.name}.asked")

    # --- memory -------------------------------------------------------------------------------------------------------

    def port(self, pasid: int | None, *, privileged: bool = False, tlb: bool = True) -> DmaPort:
        """The way to memory on behalf of a PASID (``None``: requests without one), through its TLB where ATS is on.

        The PASID prefix has room for 20 bits: what a larger number has above them does not get onto the bus.
        """
        number = None if pasid is None else pasid % PASID_LIMIT
        return DmaPort(self.fabric, self.rid, number, privileged, self.tlb if tlb and self.config.ats_enabled else None)

    def invalidate(self, request: InvalidateRequest) -> None:
        """The IOMMU tells the device to forget translations; work here is never in the middle of using one."""
        self.tlb.forget(request)

    # --- pages that are missing ---------------------------------------------------------------------------------------

    def ask(self, missing: PageMissing) -> int | None:
        """Ask software for a page (PRI); returns the group index that :meth:`page_answered` will name.

        ``None``: nothing was sent, since the interface is off, has failed, or has all that it may have outstanding.
        The answer may come before this returns.
        """
        if len(self.asked) >= self.config.page_requests:
            return None
        group = next(at for at in range(len(self.asked) + 1) if at not in self.asked)
        rid, address, access, pasid, privileged, _ = missing.request
        self.asked[group] = missing.request
        write = access is Access.WRITE
        page = address & -PAGE_SIZE
        self.fabric.unit.page_request(PageRequest(rid, pasid, page, not write, write, False, privileged, group))
        return group

    def page_response(self, response: PageGroupResponse) -> None:
        """A page request was answered. An answer that nobody waits for is an error; a failure stops the interface."""
        request = self.asked.get(response.group)
        if request is None or request.pasid != response.pasid:
            self.config.flag_page_request("UPRGI")
            return
        del self.asked[response.group]
        if response.code == ResponseCode.FAILURE:
            self.config.flag_page_request("RF")
        self.page_answered(response.group, response.code)

    def resumed(self, tag: int, *, retry: bool) -> None:
        """For overriding: a request that the IOMMU held (SMMUv3) is to be tried again, or has failed.

        Here: whoever was told of a fault has given the request up.
        """

    def page_answered(self, group: int, code: int) -> None:
        """For overriding: the answer to what :meth:`ask` asked. Success says that trying again is worth it, no more."""

    # --- registers ----------------------------------------------------------------------------------------------------

    def write_register(self, offset: int, value: int) -> None:
        """For overriding: software stores 32 bits (a store of 64 arrives as two, low half first). Here: keep them."""
        self.put32(offset, value)

    def _write32(self, offset: int, value: int) -> None:
        self.write_register(offset, value)

    def second_bar(self) -> SecondBar | None:
        """For overriding: what answers in BAR2. Here: there is none."""
        return None

    def host_pages(self) -> SecondBar | None:
        """For overriding: pages right behind those of BAR0 that no guest is ever given. Here: there are none."""
        return None

    # --- work that is carried out later -------------------------------------------------------------------------------

    def later(self, what: str, label: str) -> int:
        """Put work on the list of enabled actions: ``m.run()`` has :meth:`run_enabled` carry it out.

        ``label`` is for people. Returns the action's number.
        """
        return self.agenda.enable(self, what, f"{self.path} {label}")

    def run_enabled(self, what: str) -> None:
        """For overriding: carry out what :meth:`later` announced."""

    def drop(self, what: str | None = None) -> None:
        """Take work off the list again, without carrying it out: what is called ``what``, or all of this device's."""
        for action in self.agenda.actions(self):
            if what in (None, action.what):
                self.agenda.disable(action.number)

    # --- its life -----------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """For overriding: all registers at their reset values. Here: zero."""
        self.clear()

    def function_level_reset(self) -> None:
        """FLR: drop all work, forget translations and what was asked for, then :meth:`power_on`."""
        self.emit(Verb.COMMAND, f"{self.path} function-level reset", device=self.path, command="FLR")
        self.drop()
        for line in self.tlb.lines.keys():
            del self.tlb.lines[line]
        for group in self.asked.keys():
            del self.asked[group]
        self.power_on()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} at {format_rid(self.rid)}>"
