"""Projection: one IOASID and everyone who holds it -> figure. "Who keeps 101 alive?"

From left to right: queued work, the holders whom it will make let go, the ID, its set. A holder says what its reference
is for, read where it takes effect: a valid entry of KVM's table, a binding of the IOMMU driver, a programmed queue.
While the ID is dying (free-pending) each holder also says what will make it let go: work that waits in the core's
ordered queue, or, when there is none, what it waits for.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.ioasid.record import INVALID_IOASID
from pasidlab.views.delivery import Delivery, delivery_now
from pasidlab.views.figure import Edge, Figure, Node, fold
from pasidlab.views.numbers import counted
from pasidlab.views.occupancy import set_use, set_words
from pasidlab.views.room import Room
from pasidlab.views.words import HOLDERS, KEEPERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.kernel.ioasid.record import IoasidRecord
    from pasidlab.kernel.workqueue import Work
    from pasidlab.machine import Machine

__all__ = ["keepers"]

_HOLDERS: Final = 24
_WIDE: Final = 28
_WORK: Final = 29
_ID: Final = 18
_STATES: Final = {"active": "live", "free-pending": "pending"}


def keepers(machine: Machine, ioasid: int, room: Room | None = None) -> Figure:
    """Who holds ``ioasid`` at the present step. Of a number that is not out the figure says so.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> app = vm1.spawn("app"); guest = app.bind(adi)
    >>> [node.lines[0] for node in keepers(m, vm1.pasids[guest]).nodes]
    ['vfio', 'iommu', 'kvm:vm1', 'IOASID 2', 'vm1']
    >>> keepers(m, 9).node("ioasid:9").word
    'not allocated'
    """
    record = machine.kernel.ioasid.ids.get(ioasid)
    made = _Parts(machine, ioasid)
    if record is None:
        made.add_unknown()
    else:
        made.add_holders(record)
        made.add_id(record)
    title = KEEPERS["title"].format(ioasid=ioasid)
    figure = Figure("keepers", title, tuple(made.nodes), tuple(made.edges), note=KEEPERS["note"])
    return (room or Room()).fit(figure)


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, ioasid: int) -> None:
        self.machine = machine
        self.ioasid = ioasid
        self.key = f"ioasid:{ioasid}"
        self.allocator: str | None = None
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []

    def add_unknown(self) -> None:
        """The number is not out, or is none at all."""
        last = INVALID_IOASID - 1
        words = KEEPERS["pool"] if 0 <= self.ioasid <= last else KEEPERS["range"].format(last=last)
        lines = (f"IOASID {self.ioasid}", words, "")
        self.nodes.append(Node(self.key, lines, "ioasid", state="off", word=KEEPERS["unknown"], columns=_ID))

    def add_id(self, record: IoasidRecord) -> None:
        """The ID itself, and its set, against whose quota it counts."""
        spid = KEEPERS["no-spid"] if record.spid is None else KEEPERS["spid"].format(spid=record.spid)
        lines = (f"IOASID {record.ioasid}", spid, counted(record.refs, "reference"))
        state = _STATES.get(str(record.state), "idle")
        self.nodes.append(Node(self.key, lines, "ioasid", state=state, word=str(record.state), columns=_ID))
        owner = record.owner
        use = next(use for use in set_use(self.machine) if use.set_id == owner.set_id)
        key = f"set:{owner.set_id}"
        state = "pending" if use.ending else "live"
        said = set_words(use).split(", ", 2)
        word = KEEPERS["set"].format(set_id=owner.set_id)
        self.nodes.append(Node(key, (owner.name, *said), "set", state=state, word=word, columns=_ID, rows=4))
        self.edges.append(Edge(f"{self.key}>{key}", self.key, key, "link"))

    # --- holders ------------------------------------------------------------------------------------------------------

    def add_holders(self, record: IoasidRecord) -> None:
        """A box for each holder, the allocator's first, and the work that waits."""
        counts = Counter(record.holders)
        self.allocator = record.holders[0] if len(record.users) < record.refs else None
        shown, folded = fold(list(counts), _HOLDERS)
        queue = self.machine.kernel.ioasid.work.waiting()
        works = {at: work for at, work in enumerate(queue) if work.what == str(self.ioasid)}
        now = delivery_now(self.machine)
        for name in shown:
            mine = [work for work in works.values() if self._holder_of(work.worker) == name]
            self._add_holder(record, name, counts[name], mine, now)
        if folded:
            rest = sum(counts[name] for name in list(counts)[len(shown) :])
            lines = (KEEPERS["more"].format(count=folded), KEEPERS["more-what"].format(count=rest), "")
            self.nodes.append(Node("more", lines, "more", columns=_WIDE))
            self.edges.append(Edge(f"more>{self.key}", "more", self.key, columns=12))
        order = list(counts)
        for at, work in sorted(works.items(), key=lambda item: _rank(order, self._holder_of(item[1].worker))):
            self._add_work(at, work)
            self._point(work, shown)

    def _add_holder(self, record: IoasidRecord, name: str, count: int, works: list[Work], now: Delivery | None) -> None:
        sort, what = self._what(record, name)
        words = HOLDERS[sort]
        dying, lets_go = record.free_pending, KEEPERS["lets-go"].format(when=words.lets_go)
        word = self._waits(name, works, now) if dying else ""
        state = "pending" if dying else "live"
        lines = (name, what, lets_go)
        self.nodes.append(Node(f"holder:{name}", lines, words.kind, state=state, word=word or " ", columns=_WIDE))
        label = KEEPERS["refs"].format(count=count, s="" if count == 1 else "s")
        self.edges.append(
            Edge(f"holder:{name}>{self.key}", f"holder:{name}", self.key, state=state, label=label, columns=11)
        )

    def _waits(self, name: str, works: list[Work], now: Delivery | None) -> str:
        """What a holder of a dying ID waits for."""
        if works:
            return KEEPERS["has-work"]
        if name == self.allocator:
            return KEEPERS["by-call"]
        if now is not None and now.ioasid == self.ioasid:
            turns = [now.turn(known) for known in now.listeners if self._holder_of(known) == name]
            if turns and turns[0] != "told":
                return KEEPERS["not-told"]
        return KEEPERS["nothing"]

    def _holder_of(self, part: object) -> str:
        """The name under which whoever listens, or works, holds its references."""
        if part is self.machine.kernel.svm:
            return "iommu"
        return str(getattr(part, "holder", ""))

    def _what(self, record: IoasidRecord, name: str) -> tuple[str, str]:
        """The sort of a holder, and what its reference is for."""
        head, _, part = name.partition(":")
        facts: dict[str, object] = {"owner": record.owner.name, "part": part}
        found: dict[str, object] | None = facts
        if head == "iommu":
            binding = self.machine.kernel.svm.binding_of(self.ioasid)
            found = facts | {"devices": self._devices(binding.devices.keys())} if binding else None
        elif head == "kvm":
            found = self._kvm_entry(part)
        elif head == "vdcm":
            found = self._queue(part)
        elif head == "sva":
            processes = [process.name for process in self.machine.natives if process.mm.pasid == self.ioasid]
            found = facts | {"process": ", ".join(processes)} if processes else None
        if head not in HOLDERS or found is None:
            return head if head in HOLDERS else "", HOLDERS[""].what
        return head, HOLDERS[head].what.format(**found)

    def _devices(self, rids: list[int]) -> str:
        names = {device.rid: name for name, device in self.machine.functions.items()}
        return ", ".join(names.get(rid, format_rid(rid)) for rid in rids)

    def _kvm_entry(self, name: str) -> dict[str, object] | None:
        vmm = self.machine.vmms.get(name)
        entries = vmm.kvm.entries() if vmm is not None else []
        guests = [str(guest) for guest, host in entries if host == self.ioasid]
        return {"guest": ", ".join(guests), "host": self.ioasid} if guests else None

    def _queue(self, name: str) -> dict[str, object] | None:
        for vmm in self.machine.vmms.values():
            mdev = vmm.mdevs.get(name)
            if mdev is not None:
                return {"part": name, "queue": mdev.queue.index, "device": mdev.parent.name}
        return None

    # --- queued work --------------------------------------------------------------------------------------------------

    def _add_work(self, at: int, work: Work) -> None:
        waits = KEEPERS["head"] if at == 0 else KEEPERS["behind"].format(count=at)
        key = f"work:{work.worker.path}"
        who, _, what = work.label.partition(": ")
        state = "now" if at == 0 else "idle"
        self.nodes.append(Node(key, (who, what), "work", state=state, word=waits, columns=_WORK))

    def _point(self, work: Work, shown: Sequence[str]) -> None:
        """From the work to the holder that it makes let go; to the ID where the worker holds no reference."""
        name = self._holder_of(work.worker)
        held = name in shown
        key, head = f"work:{work.worker.path}", f"holder:{name}" if held else self.key
        label = KEEPERS["makes"] if held else ""
        self.edges.append(Edge(f"{key}>{head}", key, head, state="pending", label=label, columns=6))


def _rank(order: list[str], name: str) -> int:
    """Work stands in the order of the holders, so that these need not move when it is queued."""
    return order.index(name) if name in order else len(order)
