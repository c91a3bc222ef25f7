"""The emulated AMD IOMMU that a guest sees: a register block whose commands trap to the hypervisor.

Models what QEMU's ``hw/i386/amd_iommu.c`` would do with Linux's nested translation (``drivers/iommu/amd/nested.c``;
such a QEMU was not read: UNVERIFIED). The guest owns its tables; three traps carry the whole of guest SVA:

* **INVALIDATE_DEVTAB_ENTRY** says that the guest has changed a device table entry: the hypervisor reads the entry out
  of guest memory and binds the whole GCR3 table that it names on the host, or lets go of it. The host is not asked for
  a single PASID, then or later;
* **INVALIDATE_IOMMU_PAGES** and **INVALIDATE_IOTLB_PAGES** are forwarded as they are; the host's driver puts its own
  DomainIDs and requester IDs in place of the guest's;
* **COMPLETE_PPR_REQUEST** answers a page request that was put into the guest's own log.

A new device table, and a switch that turns translation on or off, are looked at in the same way. Faults that the
guest's tables caused come from the host's driver and go into the guest's event log, under the guest's requester ID.

The registers and the search through the guest's tables are the same code as the silicon's; only what follows is
different. The guest is shown what the host's unit can do, without host translation (:meth:`.AmdIdentity.guest`). Where
the host's unit cannot nest (no GCR3TRPMode), it is shown no guest translation either: its driver works, its devices
reach its memory, and its kernel says that there are no PASIDs.

A command cannot fail from the guest's point of view: if the host refuses to bind a table, the guest believes that it is
in use, and its DMA with PASIDs faults on the host. The refusal is told as an event. What the guest's entry says of
requests without PASID (TV=0, IR=0 and IW=0: blocked) is not carried over, as in ``nested.c``: they reach the guest's
memory whatever it says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_INV_DEVTAB,
    CMD_INV_IOMMU_PAGES,
    CMD_INV_IOTLB_PAGES,
)
from pasidlab.hardware.pcie import (
    PASID_LIMIT,
    PageGroupResponse,
    PageRequest,
    ResponseCode,
    format_rid,
)
from pasidlab.timeline import HOST, Table, Verb
from pasidlab.virt.traps import Answer, Trap, TrapKind

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.amdvi.invalidation import Command
    from pasidlab.timeline import Timeline
    from pasidlab.virt.ioasid_user import PasidSource
    from pasidlab.virt.vfio import VfioContainer
    from pasidlab.virt.viommu.contract import VirtualPlatform

__all__ = ["VirtualAmd", "shown_card"]

_CODES: Final = frozenset(ResponseCode)
_ALTERED: Final = {
    CMD_INV_DEVTAB: "the requester ID whose entry is looked at",
    CMD_INV_IOMMU_PAGES: "the PASID that is flushed",
    CMD_INV_IOTLB_PAGES: "the PASID that is flushed",
    CMD_COMPLETE_PPR: "the response code",
}
"""Commands that mean something for the host, and what of each can be altered; the others are done when the guest has
its answer.
"""
_RID_LIMIT: Final = 1 << 16
_COMMAND_PASIDS: Final = 1 << 16


class VirtualAmd(AmdRegisters, state=("identity_mapped",)):
    """One guest's unit. ``bound`` are the guest's device table entries whose tables the host was asked to bind, by the
    requester ID that the guest knows. ``pasids`` stays empty: no number of the guest is backed by one of the host.
    """

    actor = "vmm"

    def __init__(
        self, timeline: Timeline, name: str, platform: VirtualPlatform, container: VfioContainer, source: PasidSource
    ) -> None:
        card = shown_card(*container.hardware_info())
        super().__init__(timeline, f"{HOST}.viommu[{name}]", HOST, platform.memory, card)
        self.name = name
        self._apic = platform.apic
        self._desk = platform.desk
        self._container = container
        self.identity_mapped = False
        self.devices = Table[int, str](timeline, f"{self.path}.devices")
        self.pasids = Table[int, int](timeline, f"{self.path}.pasids")
        self.bound = Table[int, tuple[int, ...]](timeline, f"{self.path}.bound")

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        trap = self.emit(Verb.TRAP, f"{self.name}: {command}")
        with self.timeline.because(trap):
            if command.layout not in _ALTERED:
                return
            answered = command.layout is CMD_COMPLETE_PPR
            kind = TrapKind.PAGE_RESPONSE if answered else TrapKind.INVALIDATION
            decision = self._desk.decide(
                self.timeline, Trap(self.name, kind, str(command), self._alterable(command.layout, command))
            )
            if decision.answer is not Answer.REFUSE:
                self._carry_out(command, decision.value if decision.answer is Answer.ALTER else None)

    @staticmethod
    def _alterable(layout: Layout, command: Command) -> str:
        """What of a command can be altered: no PASID where it has none."""
        pages = layout in (CMD_INV_IOMMU_PAGES, CMD_INV_IOTLB_PAGES)
        return "" if pages and command.pasid is None else _ALTERED[layout]

    def _carry_out(self, command: Command, altered: int | None) -> None:
        """Do what a command is for, on the host; with another number than the guest's if it was ``altered``."""
        if command.layout is CMD_INV_DEVTAB:
            self._sync(command.field("devid") if altered is None else altered % _RID_LIMIT)
        elif command.layout is CMD_COMPLETE_PPR:
            self._page_answered(command, altered)
        else:
            self._forward(command.words if altered is None else _with_pasid(command, altered))

    def _forward(self, words: tuple[int, ...]) -> None:
        try:
            self._container.forward(words, dict(self.devices.items()))
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")

    # --- the guest's tables -------------------------------------------------------------------------------------------

    def _device_table_set(self) -> None:
        """A new device table: every entry may be different."""
        self._look_again()

    def _translation_switched(self) -> None:
        """While translation is off nothing is bound; what the tables say counts when it is on."""
        self._look_again()

    def _look_again(self) -> None:
        for rid in self.devices.keys():
            self._sync(rid)

    def _sync(self, rid: int) -> None:
        """Make what is bound on the host what the guest's device table entry asks for."""
        if rid not in self.devices:
            return
        wanted, known = self._wanted(rid), self.bound.get(rid)
        if wanted is not None and wanted != known:
            self._bind(rid, wanted)
        elif wanted is None and known is not None:
            self._unbind(rid)

    def _wanted(self, rid: int) -> tuple[int, ...] | None:
        """The guest's entry, if it is legal and names a GCR3 table."""
        reason, line = self.find_dte(rid)
        on = self.translation_enabled and self.lookup().guest
        if reason is not None or line is None or not (on and line.valid and line.translated and line.guest):
            return None
        return line.words

    def _bind(self, rid: int, words: tuple[int, ...]) -> None:
        """Bind a table; if the host refuses, the one before must not stay either."""
        try:
            self._container.bind_table(self.devices[rid], words, self)
        except KernelError as error:
            subject = f"bind of the GCR3 table of {format_rid(rid)}: {error.reason}"
            self.emit(Verb.REFUSE, subject, after=f"-{error.name}")
            if rid in self.bound:
                self._unbind(rid)
            return
        self.bound[rid] = words

    def _unbind(self, rid: int) -> None:
        del self.bound[rid]
        try:
            self._container.unbind_table(self.devices[rid])
        except KernelError as error:
            self.emit(Verb.REFUSE, f"unbind of {format_rid(rid)}: {error.reason}", after=f"-{error.name}")

    def _guests_name(self, rid: int) -> int | None:
        """The requester ID by which the guest knows a device of the host, if the device is the guest's."""
        attached = self._container.devices
        for guest_rid, key in self.devices.items():
            if key in attached and attached[key].rid == rid:
                return guest_rid
        return None

    # --- faults -------------------------------------------------------------------------------------------------------

    def fault_reported(self, rid: int, record: tuple[int, ...]) -> None:
        """The host's driver has an event that the guest's own table caused: put it into the guest's event log."""
        guest_rid = self._guests_name(rid)
        if guest_rid is None:
            return
        event = EventRecord.of(record)._replace(rid=guest_rid)
        fate = "logged" if self.record_event(event) else "lost: the event log is full or stopped"
        facts = {"rid": guest_rid, "code": int(event.code), "address": event.address}
        self.emit(Verb.ANSWER, f"{self.name}: {event}", after=fate, pasid=event.pasid, **facts)

    # --- page requests ------------------------------------------------------------------------------------------------

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """A device asks for a page: put it into the guest's log, under the guest's requester ID."""
        guest_rid = self._guests_name(request.rid)
        if guest_rid is None or guest_rid not in self.bound:
            return ResponseCode.INVALID
        self.page_request(request._replace(rid=guest_rid))
        return None

    def _page_request_dropped(self, request: PageRequest) -> None:
        """The guest's log is full: "success", so that the device tries again, as the host's own unit answers."""
        self._respond(PageGroupResponse(request.rid, request.pasid, request.group, ResponseCode.SUCCESS))

    def _page_answered(self, command: Command, code: int | None) -> None:
        """The guest answers a page request: its command becomes a response to VFIO, with another ``code`` if one was
        decided on.
        """
        at = command.fields()
        status = at["status"] if code is None else code
        self._respond(PageGroupResponse(at["devid"], command.pasid, at["tag"], status))

    def _respond(self, response: PageGroupResponse) -> None:
        key = self.devices.get(response.rid)
        self.tell_response(response)
        try:
            if key is None:
                raise KernelError("EINVAL", f"{self.name} answers for {format_rid(response.rid)}, no device of its own")
            code = ResponseCode(response.code) if response.code in _CODES else ResponseCode.INVALID
            self._container.page_response(key, response.pasid, response.group, code)
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")

    def _interrupt(self, address: int, data: int) -> None:
        self.emit(Verb.INTERRUPT, f"{self.name}: vector {data & 0xFF:#x}", vector=data & 0xFF)
        self._apic.message(address, data)


def shown_card(efr: int, efr2: int) -> AmdIdentity:
    """What a guest is shown of a host's unit with these feature registers.

    >>> able, unable = AmdIdentity(), AmdIdentity(gcr3trp=False)
    >>> shown_card(able.efr(), able.efr2()).gt, shown_card(unable.efr(), unable.efr2()).gt
    (True, False)
    """
    host = AmdIdentity.from_registers(efr, efr2)
    card = AmdIdentity.guest(host)
    return card if host.gcr3trp else replace(card, gt=False, giosup=False)


def _with_pasid(command: Command, pasid: int) -> tuple[int, ...]:
    """A command for another PASID."""
    if command.layout is CMD_INV_IOMMU_PAGES:
        return command.layout.change(command.words, PASID=pasid % PASID_LIMIT)
    number = pasid % _COMMAND_PASIDS
    return command.layout.change(command.words, PASID_HI=number >> 8, PASID_LO=number & 0xFF)
