"""Projection: the machines of a comparison at one linked step, side by side -> figure "The same guest on ... IOMMUs".

One column a machine. Its left half lies in the guest's memory, its right half in the host's: the entry of the device,
the table of PASIDs, page tables. Solid arrows are the way that silicon goes from a request to a page; dashed ones say
what of the guest's tables the host copies: entry by entry (shadow), or the entry of the device alone (bind). At the
bottom is the price of this step, and of all until now. All places are fixed; what is not there yet is drawn as absent.

Everything is read from the tables through the contracts of units and drivers; nothing here asks which vendor it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.timeline import HARDWARE, Verb
from pasidlab.views.compare import spent
from pasidlab.views.compare_words import COMPARE, STEPS
from pasidlab.views.figure import Cluster, Edge, Figure, Node
from pasidlab.views.price import WORDS

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.contract import IommuDriver
    from pasidlab.views.compare import Comparison, Moment, Played
    from pasidlab.virt.vmm import Vmm

__all__ = ["SHOWN", "compare_figure"]

SHOWN: Final = ("traps", "ioctls", "delivered", "invalidations", "ioasids", "host_words", "guest_words", "kvm_words")
"""The counts in a column's price, in this order."""
_NARROW, _WIDE, _ROWS = 18, 43, 3
_STEP, _GAP = 186, 192
_COLUMN: Final = _STEP + _GAP
_HEAD, _ROW, _DOWN = 0, 112, 108
_MOST: Final = 4
_TABLE: Final = "structure"
_ABSENT: Final = (_TABLE, "off", COMPARE["absent"])


def compare_figure(found: Comparison, moment: Moment, *, priced: bool = True) -> Figure:
    """The figure at the moment to which the machines have travelled (:meth:`.Comparison.go`); without the prices where
    a table beside it has them.

    >>> from pasidlab.stories.compare import compare_machines
    >>> found = compare_machines(("vtd",)); figure = compare_figure(found, found.go(found.ends[3]))
    >>> figure.node("vtd:host-table").lines[0]
    'host: PASID 1'
    """
    columns = [_Column(one, moment, at * _COLUMN) for at, one in enumerate(found.played)]
    for column in columns:
        column.build(priced)
    return Figure(
        "compare",
        COMPARE["title"],
        tuple(node for column in columns for node in column.nodes),
        tuple(edge for column in columns for edge in column.edges),
        tuple(frame for column in columns for frame in column.frames),
        note=_note(found, moment),
    )


def _note(found: Comparison, moment: Moment) -> str:
    if moment.step < 0:
        return COMPARE["begin"]
    title = list(STEPS.values())[moment.step][0]
    sub = COMPARE["sub"].format(sub=moment.sub, subs=found.lengths[moment.step])
    where = COMPARE["note"].format(step=title, now=moment.step + 1, last=len(STEPS), sub=sub)
    return f"{where}. {COMPARE['legend']}"


class _Column:
    """One machine's column while it is put together. What there is of VM and function is looked up once."""

    def __init__(self, one: Played, moment: Moment, x: int) -> None:
        self.one, self.m, self.family, self.did = one, one.machine, one.family, one.did
        self.moment, self.x = moment, x
        self.kind = self.m.iommu
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.frames: list[Cluster] = []
        self.rid = next(iter(self.m.functions.values())).rid
        self.vmm: Vmm | None = next((vmm for vmm in self.m.vmms.values() if vmm.running), None)
        self.entries = [entry for entry in self.m.unit.entries(self.rid) if entry.kind is EntryKind.NESTED]
        self.guests = [entry for entry in self.entries if entry.guest_address is not None]

    def build(self, priced: bool) -> None:
        """All boxes, frames and arrows."""
        sides = (("guest", "guest-frame"), ("host", "host-frame"))
        self.frames = [Cluster(f"{self.kind}:{side}", COMPARE[words]) for side, words in sides]
        self._heads()
        self._entry_row()
        self._table_row()
        self._page_row()
        if priced:
            self._price()
        self._arrows()

    # --- boxes --------------------------------------------------------------------------------------------------------

    def _box(
        self, part: str, row: int, lines: tuple[str, ...], look: tuple[str, str, str], place: int | None = None
    ) -> None:
        """A box in the guest's half or in the host's; ``look`` is kind, state and word, ``place`` its address there."""
        kind, state, word = look
        host = part.startswith("host")
        at = (self.x + host * _STEP, _ROW + row * _DOWN)
        self.nodes.append(
            Node(f"{self.kind}:{part}", lines, kind, f"{self.kind}:{'host' if host else 'guest'}", state=state,
                 word=word, columns=_NARROW, rows=_ROWS, at=at,
                 hint=COMPARE["at"].format(address=place) if place is not None else "")
        )  # fmt: skip

    def _heads(self) -> None:
        """The unit, and the function with what it has sent in this step."""
        did = self.did[max(self.moment.step, 0)]
        events = (event for event in self.m.timeline.since(did.first) if event.altitude == HARDWARE)
        asked = (event.fact("pasid") for event in events if event.verb in (Verb.ATS, Verb.DMA))
        numbers = sorted({number for number in asked if isinstance(number, int)})
        name, more = self.family.title.partition(", ")[::2]
        way = COMPARE["bind" if self.family.binds_tables else "shadow"]
        sends = COMPARE["sends" if numbers else "sends-none"].format(numbers=_list(numbers))
        device = (COMPARE["machine-device"].format(device=next(iter(self.m.functions.keys())), kind=self.kind), sends)
        for at, key, kind, lines in ((0, "unit", "iommu", (name, way, more)), (_STEP, "device", "device", device)):
            state = "live" if numbers and key == "device" else "idle"
            self.nodes.append(
                Node(
                    f"{self.kind}:{key}", lines, kind, state=state, columns=_NARROW, rows=_ROWS, at=(self.x + at, _HEAD)
                )
            )

    def _guest(self) -> tuple[IommuDriver, int] | None:
        """The guest's driver and the requester ID that it knows, once it has found the function."""
        if self.vmm is None or not len(self.vmm.guest.iommu.devices):
            return None
        driver = self.vmm.guest.iommu
        return driver, driver.devices.keys()[0]

    def _entry_row(self) -> None:
        """The entry of the device: the guest's, and the host's."""
        guests, hosts, term = COMPARE["guest-device"], COMPARE["host-device"], self.family.terms.device_entry
        guest = self._guest()
        at = guest[0].device_entry(guest[1]) if guest is not None else None
        if at is None:
            self._box("guest-entry", 0, (guests, term, COMPARE["guest-entry-none"]), _ABSENT)
        else:
            who = COMPARE["guest-entry-bound" if self._bound else "guest-entry"]
            self._box("guest-entry", 0, (guests, term, who), (_TABLE, "idle", COMPARE["unread"]), at)
        place = self.m.kernel.iommu.device_entry(self.rid)
        who = COMPARE["host-entry-bound" if self._bound else "host-entry"]
        look = (_TABLE, "live" if self.entries else "idle", COMPARE["read"])
        self._box("host-entry", 0, (hosts, term, who), look, place)

    @property
    def _own(self) -> tuple[str, str, str]:
        """How the guest's own tables look: silicon reads them, or it does not."""
        return (_TABLE, "live", COMPARE["read"]) if self._bound else (_TABLE, "idle", COMPARE["unread"])

    @property
    def _bound(self) -> bool:
        """Whether the guest's whole table is bound."""
        return self.m.kernel.iommu.has_table(self.rid)

    @property
    def _in_force(self) -> bool:
        """Whether the device's requests meet the host's own table: always, or as long as no VM has the device."""
        given = any(self.rid in domain.rids for domain in self.m.kernel.iommu.domains.values())
        known = self.m.kernel.iommu.entry_table(self.rid) is not None
        return known and not (given and self.family.binds_tables)

    def _table_row(self) -> None:
        """The table of PASIDs: the guest's, and the host's."""
        term, guest = self.family.terms.table, self._guest()
        table = guest[0].entry_table(guest[1]) if guest is not None else None
        if table is None:
            self._box("guest-table", 1, (_pasids("guest", []), term), _ABSENT)
        else:
            who = COMPARE["guest-table-live" if self._bound else "guest-table-idle"]
            self._box("guest-table", 1, (_pasids("guest", table.present()), term, who), self._own)
        own = [entry.pasid for entry in self.entries if entry.guest_address is None]
        if self._in_force:
            look = (_TABLE, "live" if own else "idle", COMPARE["read"])
            self._box("host-table", 1, (_pasids("host", own), term, COMPARE["host-table"]), look)
        else:
            self._box("host-table", 1, (_pasids("host", own), term, COMPARE["host-table-none"]), _ABSENT)

    def _page_row(self) -> None:
        """Page tables of processes in the guest, and the second level of the host."""
        processes = self.vmm.guest.processes.values() if self.vmm is not None else []
        names = [process.name for process in processes if process.mm.pasid is not None]
        words = COMPARE["processes"].format(names=", ".join(names)) if names else COMPARE["no-process"]
        seen = ("live", COMPARE["read"]) if self.entries else ("idle", COMPARE["unread"])
        self._box("guest-pages", 2, (COMPARE["pages"], self.family.terms.first, words), (_TABLE, *seen))
        domain, second = self.vmm.container.domain if self.vmm is not None else None, self.family.terms.second
        if domain is None or self.rid not in domain.rids:
            self._box("host-second", 2, (COMPARE["second"], second, COMPARE["second-none"]), _ABSENT)
        else:
            lines = (COMPARE["second"], second, COMPARE["bounds"])
            self._box("host-second", 2, lines, (_TABLE, "live", COMPARE["read"]), domain.table.root)

    def _price(self) -> None:
        """What this step has cost until now, and all steps together."""
        now, whole = spent(self.one, self.moment)
        lines = [
            COMPARE["line"].format(words=WORDS[name], now=getattr(now, name), total=getattr(whole, name))
            for name in SHOWN
        ]
        numbers = self.m.kernel.ioasid.ids.keys()
        out = COMPARE["ioasids-out"].format(numbers=_list(numbers)) if numbers else COMPARE["ioasids-none"]
        lines.append(f"{COMPARE['ioasids']}: {out}")
        self.nodes.append(
            Node(f"{self.kind}:price", (COMPARE["now"], *lines), "thing",
                 columns=_WIDE, rows=len(SHOWN) + 2, at=(self.x, _ROW + 3 * _DOWN + 8))
        )  # fmt: skip

    # --- arrows -------------------------------------------------------------------------------------------------------

    def _arrows(self) -> None:
        shadow, bound = bool(self.entries) and not self.guests, bool(self.guests)
        self._arrow("device", "host-entry", seen=True, flow=bool(self.entries))
        self._arrow("guest-entry", "host-entry", seen=self._bound, flow=False)
        self._arrow("guest-table", "host-table", seen=shadow, flow=False)
        self._arrow("host-entry", "host-table", seen=self._in_force, flow=shadow)
        self._arrow("host-entry", "guest-table", seen=self._bound, flow=bound)
        self._arrow("host-table", "guest-pages", seen=shadow, flow=True)
        self._arrow("guest-table", "guest-pages", seen=bound, flow=True)
        self._arrow("guest-pages", "host-second", seen=bool(self.entries), flow=True)

    def _arrow(self, tail: str, head: str, *, seen: bool, flow: bool) -> None:
        key = f"{self.kind}:{tail}>{head}"
        self.edges.append(
            Edge(key, f"{self.kind}:{tail}", f"{self.kind}:{head}", "flow" if flow or not seen else "arrow",
                 state="live" if flow else "cached" if seen and tail.startswith("guest") else "idle", present=seen)
        )  # fmt: skip


def _pasids(side: str, numbers: list[int]) -> str:
    """The PASIDs in somebody's table, without the entry of requests that carry none."""
    own = [number for number in numbers if number]
    name = "empty" if not own else "pasids" if len(own) == 1 else "pasids-many"
    return COMPARE[f"{side}-numbers"].format(numbers=COMPARE[name].format(numbers=_list(own)))


def _list(numbers: list[int]) -> str:
    shown, more = numbers[:_MOST], len(numbers) - _MOST
    return ", ".join(map(str, shown)) + (f" +{more}" if more > 0 else "")
