"""The emulated SMMUv3 that a guest sees: a register block whose commands trap to the hypervisor.

Models what QEMU's ``hw/arm/smmuv3-accel.c`` does with Linux's nested translation (arm-smmu-v3-iommufd.c, 6.13). The
guest owns its tables; three kinds of command carry the whole of guest SVA:

* **CFGI_STE** (and CFGI_ALL) says that the guest has changed a stream table entry: the hypervisor reads the entry out
  of guest memory and has the host bind the whole table of context descriptors that it names. The host is not asked for
  a single PASID, then or later;
* **CFGI_CD, TLBI and ATC_INV** are forwarded as they are; the host's driver puts its own VMID and requester IDs in
  place of the guest's;
* **PRI_RESP** and **RESUME** answer page requests and held transactions, which were put into the guest's own queues.

While the guest's unit is off its devices reach guest memory as they like (or nothing, with GBPA.ABORT). An entry that
is not valid, that cannot be read, or that the host refuses blocks the device; no record tells the guest of it, although
silicon would record C_BAD_STE for each transaction (as in Linux, whose comment promises it for later). Of a command
that the host refuses the guest is not told either (UNVERIFIED: QEMU stops its queue). Each refusal is told as an event.
Faults of stage 1 come from the host's driver and go into the guest's event queue, under its StreamID.

The registers and the search through the guest's tables are the same code as the silicon's; only what follows is
different. The guest's unit can do what the host's can, without stage 2; its stream table, which no silicon reads, may
always have two levels.

UNVERIFIED: QEMU shows a guest no stalls. Here it may use them as the host does, for devices of which its firmware says
that they bear them; a held transaction reaches it as F_TRANSLATION, whatever the event was on the host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.smmuv3.caches import SteLine
from pasidlab.hardware.iommu.smmuv3.faults import FaultClass, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import PAGE_RESPONSES, RETRY
from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters
from pasidlab.hardware.layouts.smmu import STE
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_ATC_INV,
    CMD_CFGI_ALL,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_CFGI_STE,
    CMD_PRI_RESP,
    CMD_RESUME,
    CMD_STALL_TERM,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    COMMANDS,
    EVENT,
)
from pasidlab.hardware.pcie import PASID_LIMIT, PageGroupResponse, PageRequest, ResponseCode, format_rid
from pasidlab.timeline import HOST, Table, Verb
from pasidlab.virt.traps import Answer, Trap, TrapKind

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.smmuv3.invalidation import Command
    from pasidlab.timeline import Timeline
    from pasidlab.virt.ioasid_user import PasidSource
    from pasidlab.virt.vfio import VfioContainer
    from pasidlab.virt.viommu.contract import VirtualPlatform

__all__ = ["VirtualSmmu"]

_NOT_VALID: Final = (0,) * STE.word_count
_CODES: Final = frozenset(ResponseCode)
_STREAM, _ASIDS = 1 << 16, 1 << 16
_ALTERED: Final = {
    CMD_CFGI_STE: ("the StreamID whose entry is looked at", "SID", _STREAM),
    CMD_CFGI_CD: ("the SubstreamID that is forgotten", "SSID", PASID_LIMIT),
    CMD_ATC_INV: ("the SubstreamID that is flushed", "SSID", PASID_LIMIT),
    CMD_TLBI_NH_ASID: ("the ASID that is flushed", "ASID", _ASIDS),
    CMD_TLBI_NH_VA: ("the ASID that is flushed", "ASID", _ASIDS),
}
"""What of a command can be altered: in words, the field, and how many values it has."""
_ANSWERS: Final = (CMD_PRI_RESP, CMD_RESUME)
_TABLE: Final = ("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH")
_PASSED_ON: Final = ("V", "Config", *_TABLE, "S1STALLD", "EATS")
"""The masks STE0_MASK and STE1_MASK of QEMU."""
_STAGE_1: Final = 5
_CFGI_CD_ALL: Final = next(opcode for opcode, layout in COMMANDS if layout is CMD_CFGI_CD_ALL)


class VirtualSmmu(SmmuRegisters, state=("identity_mapped",)):
    """One guest's unit. ``bound`` are the guest's stream table entries that the host was asked to bind, by the StreamID
    that the guest knows; ``held`` are held transactions by StreamID and tag, with their PASID. ``pasids`` stays empty:
    no number of the guest is backed by one of the host.
    """

    actor = "vmm"

    def __init__(
        self, timeline: Timeline, name: str, platform: VirtualPlatform, container: VfioContainer, source: PasidSource
    ) -> None:
        host = SmmuIdentity.from_registers(*container.hardware_info())
        card = replace(
            SmmuIdentity.guest(host), st_level=1, sidsize=16, stall_model=host.stall_model, stall_max=host.stall_max
        )
        super().__init__(timeline, f"{HOST}.viommu[{name}]", HOST, platform.memory, card)
        self.name = name
        self._apic = platform.apic
        self._desk = platform.desk
        self._container = container
        self.identity_mapped = False
        self.devices = Table[int, str](timeline, f"{self.path}.devices")
        self.pasids = Table[int, int](timeline, f"{self.path}.pasids")
        self.bound = Table[int, tuple[int, ...]](timeline, f"{self.path}.bound")
        self.held: Table[tuple[int, int], int | None] = Table(timeline, f"{self.path}.held")

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        trap = self.emit(Verb.TRAP, f"{self.name}: {command}")
        with self.timeline.because(trap):
            kind = TrapKind.PAGE_RESPONSE if command.layout in _ANSWERS else TrapKind.INVALIDATION
            decision = self._desk.decide(self.timeline, Trap(self.name, kind, str(command), _alterable(command)))
            if decision.answer is not Answer.REFUSE:
                self._carry_out(command, decision.value if decision.answer is Answer.ALTER else None)

    def _carry_out(self, command: Command, altered: int | None) -> None:
        """Do what a command is for, on the host; with another number than the guest's if it was ``altered``."""
        if command.layout in _ANSWERS:
            self._answered(command, altered)
            return
        if command.layout is CMD_STALL_TERM:
            self._terminate(command.field("SID"))
            return
        words = command.words
        if altered is not None:
            _, field, limit = _ALTERED[command.layout]
            words = command.layout.change(words, **{field: altered % limit})
        if command.layout is CMD_CFGI_STE:
            self._refresh(CMD_CFGI_STE["SID"].get(words))
        elif command.layout is CMD_CFGI_ALL:
            self._look_again(command.field("SID"), 2 << command.field("range"))
        else:
            self._forward(words)

    def _forward(self, words: tuple[int, ...]) -> None:
        try:
            self._container.forward(words, dict(self.devices.items()))
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")

    # --- the guest's tables -------------------------------------------------------------------------------------------

    def _translation_switched(self) -> None:
        """While translation is off nothing is bound; what the tables say counts when it is on."""
        self._look_again(0, _STREAM)

    def _look_again(self, sid: int, count: int) -> None:
        first = sid & -count
        for rid in self.devices.keys():
            if first <= rid < first + count:
                self._refresh(rid)

    def _refresh(self, rid: int) -> None:
        """Make what is bound on the host what the guest's stream table entry asks for.

        The command makes silicon forget the stream's context descriptors as well (specification, 4.3.1): where nothing
        is bound anew, the host is asked for that.
        """
        if rid not in self.devices:
            return
        wanted, known = self._wanted(rid), self.bound.get(rid)
        if wanted is None and known is not None:
            self._unbind(rid)
        elif wanted is not None and wanted != known:
            self._bind(rid, wanted)
        elif wanted is not None and _uses_stage_1(wanted):
            self._forward(CMD_CFGI_CD_ALL.encode(OP=_CFGI_CD_ALL, SID=rid))

    def _wanted(self, rid: int) -> tuple[int, ...] | None:
        """The entry that counts for a device: the guest's; one that is not valid in place of what is none; nothing."""
        if not self.translation_enabled:
            return _NOT_VALID if self.blocks_when_off else None
        found = self.find_ste(rid)
        return _passed_on(found.words) if isinstance(found, SteLine) else _NOT_VALID

    def _bind(self, rid: int, words: tuple[int, ...]) -> None:
        """Bind an entry; one that the host refuses blocks the device, as one that is not valid."""
        for entry in (words, _NOT_VALID):
            try:
                self._container.bind_table(self.devices[rid], entry, self)
            except KernelError as error:
                told = f"the stream table entry of {format_rid(rid)}: {error.reason}"
                self.emit(Verb.REFUSE, told, after=f"-{error.name}", rid=rid)
            else:
                self.bound[rid] = words
                return

    def _unbind(self, rid: int) -> None:
        del self.bound[rid]
        try:
            self._container.unbind_table(self.devices[rid])
        except KernelError as error:
            self.emit(Verb.REFUSE, f"unbind of {format_rid(rid)}: {error.reason}", after=f"-{error.name}")

    # --- faults -------------------------------------------------------------------------------------------------------

    def _guest_rid(self, rid: int) -> int | None:
        """The requester ID under which the guest knows a device of the host."""
        for known, key in self.devices.items():
            attached = self._container.devices.get(key)
            if attached is not None and attached.rid == rid:
                return known
        return None

    def fault_reported(self, rid: int, record: tuple[int, ...]) -> None:
        """The host's driver reports an event that is the guest's affair: it goes into the guest's own queue.

        Nothing happens once the hypervisor has stopped listening: its guest's memory may be gone.
        """
        known = self._guest_rid(rid)
        if known is not None and self._container.listener is not None:
            queued = self.record_event(EVENT.change(record, SID=known))
            at = EVENT.decode(record)
            facts = {"rid": known, "pasid": at["SSID"] if at["SSV"] else None, "code": at["ID"], "address": at["addr"]}
            what = f"{self.name}: {SmmuEvent.of(at['ID']).name} of {format_rid(known)}"
            self.emit(Verb.ANSWER, what, after="recorded" if queued else "lost: the queue takes none", **facts)

    # --- page requests ------------------------------------------------------------------------------------------------

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """A device of the guest asks for a page, or is held: put it into the guest's queue, under its StreamID."""
        rid = self._guest_rid(request.rid)
        if rid is None or not self.translation_enabled:
            return ResponseCode.INVALID
        asked = request._replace(rid=rid)
        if self._container.can_stall(self.devices[rid]):
            return self._tell_held(asked)
        self.page_request(asked)
        return None

    def _tell_held(self, request: PageRequest) -> ResponseCode | None:
        """A held transaction is an event; one that finds no room ends at once (silicon would wait for room)."""
        if not self.record_event(_held_event(request)):
            return ResponseCode.INVALID
        self.held[request.rid, request.group] = request.pasid
        return None

    def _page_request_dropped(self, request: PageRequest, code: ResponseCode) -> None:
        if request.last and (request.read or request.write):
            self._respond(PageGroupResponse(request.rid, request.pasid, request.group, code))

    def _answered(self, command: Command, altered: int | None) -> None:
        """The guest answers a page request, or lets a held transaction go; with another code if one was decided on."""
        at = command.fields()
        rid = at["SID"]
        if command.layout is CMD_RESUME:
            key, group = (rid, at["STAG"]), at["STAG"]
            pasid = self.held.pop(key) if key in self.held else None
            code = ResponseCode.SUCCESS if at["RESP"] & RETRY else ResponseCode.INVALID
        else:
            pasid, group = at["SSID"] if at["SSV"] else None, at["GRPID"]
            code = PAGE_RESPONSES[at["RESP"]]
        if altered is not None:
            code = ResponseCode(altered) if altered in _CODES else ResponseCode.INVALID
        self._respond(PageGroupResponse(rid, pasid, group, code))

    def _terminate(self, rid: int) -> None:
        """CMD_STALL_TERM: everything of a stream that is held ends."""
        for key, pasid in self.held.items():
            if key[0] == rid:
                del self.held[key]
                self._respond(PageGroupResponse(rid, pasid, key[1], ResponseCode.INVALID))

    def _respond(self, response: PageGroupResponse) -> None:
        key = self.devices.get(response.rid)
        self.tell_response(response)
        try:
            if key is None:
                raise KernelError("EINVAL", f"{self.name} answers for a device that it does not have")
            self._container.page_response(key, response.pasid, response.group, ResponseCode(response.code))
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")

    def _interrupt(self, address: int, data: int) -> None:
        self.emit(Verb.INTERRUPT, f"{self.name}: vector {data & 0xFF:#x}", vector=data & 0xFF)
        self._apic.message(address, data)


def _passed_on(words: tuple[int, ...]) -> tuple[int, ...]:
    """What of a guest's entry the host is told: Config, and where that says stage 1, the table, S1STALLD and EATS."""
    names = _PASSED_ON if _uses_stage_1(words) else ("V", "Config")
    return STE.encode(**{name: STE[name].get(words) for name in names})


def _uses_stage_1(words: tuple[int, ...]) -> bool:
    """Whether an entry has a table of context descriptors."""
    return STE["Config"].get(words) & _STAGE_1 == _STAGE_1


def _alterable(command: Command) -> str:
    """What of a command can be altered: no SubstreamID where it has none."""
    if command.layout in _ANSWERS:
        return "the response code"
    if command.layout not in _ALTERED or (command.layout is CMD_ATC_INV and not command.field("SSV")):
        return ""
    return _ALTERED[command.layout][0]


def _held_event(request: PageRequest) -> tuple[int, ...]:
    """The event record of a held transaction, as its guest gets it."""
    pasid = {} if request.pasid is None else {"SSV": 1, "SSID": request.pasid}
    return EVENT.encode(
        ID=SmmuEvent.F_TRANSLATION,
        SID=request.rid,
        STALL=1,
        STAG=request.group,
        PnU=int(request.privileged),
        InD=int(request.execute),
        RnW=int(not request.write),
        CLASS=FaultClass.IN,
        addr=request.address,
        **pasid,
    )
