"""Projection: one process and its devices -> figure "On the wire".

The upper row is the CPU: IA32_PASID, the VMCS control, the directory and the table entry that translate it, and what
ENQCMD carries at the end. Below it each device has a row: how the number gets there, the queue, the number on the wire,
the PASID entry that it selects, whose memory is behind. All places are fixed; a row is hidden while there is no device
for it, and what does not fit is counted in the last one. The lowest box says what is wrong: which devices do not reach
the memory of the process, as read here, and the sentences of the invariant that is violated. Its badge is ``check()``
only if all sentences are; among others, those of ``check()`` say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.timeline import HOST
from pasidlab.views.figure import Edge, Figure, Node, fold, slots
from pasidlab.views.tables import device_entries
from pasidlab.views.unit_words import unit_words
from pasidlab.views.wire import WireLine, ambiguities, translation_of, wire_lines
from pasidlab.views.wire_words import WAYS, WIRE
from pasidlab.virt.policies import POLICIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.handles import App
    from pasidlab.hardware.cpu import PasidTranslation
    from pasidlab.machine import Machine

__all__ = ["lost", "on_the_wire"]

_ROWS: Final = 3
_TALL, _GAP, _ROW_GAP, _LEFT = 78, 18, 26, 20
_MOST: Final = 6
_CPU_WIDE: Final = {"process": 16, "control": 15, "directory": 19, "table": 17, "out": 16, "policy": 26}
_LINE_WIDE: Final = {"device": 16, "way": 20, "queue": 19, "wire": 14, "entry": 21, "memory": 19}
_WHOLE: Final = 137
_CONFLICT_ROWS: Final = 4


class _Look(NamedTuple):
    """A box's lines, its state, and a word for that."""

    lines: tuple[str, ...]
    state: str
    word: str
    hint: str = ""


def on_the_wire(machine: Machine, app: App) -> Figure:
    """The figure of one process, in a guest or on the host.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm)
    >>> app = vm.spawn("app"); _ = app.bind(adi); figure = on_the_wire(m, app)
    >>> figure.node("wire:0").lines[0], figure.node("memory:0").word
    ('PASID 2', 'its own')
    """
    lines = wire_lines(machine, app)
    said = ambiguities(machine, app, lines)
    made = _Parts(machine, app)
    made.add_cpu(bool(said))
    shown, folded = fold(lines, _MOST)
    for row in range(slots(max(1, len(shown) + bool(folded)))):
        if folded and row == len(shown):
            made.add_more(row, lines[row:])
        else:
            made.add_line(row, shown[row] if row < len(shown) else None)
    made.add_conflict([lost(line) for line in lines if line.conflict], said)
    title = WIRE["title"].format(process=app.name, where=app.altitude)
    return Figure("wire", title, tuple(made.nodes), tuple(made.edges), note=WIRE["note"])


def lost(line: WireLine) -> str:
    """Why work on a device does not reach the memory of the process, in a sentence."""
    if line.reached is None:
        why = WIRE["lost-register" if line.dedicated else "lost-none"]
    elif line.reached.fault:
        why = WIRE["lost-fault"].format(code=f"{line.reached.fault:#x}")
    else:
        why = WIRE["lost-other"].format(whose=line.reached.whose)
    wire = WIRE["wire-none"] if line.wire is None else WIRE["wire"].format(pasid=line.wire)
    return WIRE["lost"].format(device=line.device, wire=wire, why=why)


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, app: App) -> None:
        self.machine = machine
        self.app = app
        self.native = app.altitude == HOST
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._out: int | None = None
        self._bottom = 0

    def _row(self, name: str, wide: dict[str, int], y: int, boxes: list[tuple[str, _Look]], present: int) -> None:
        """The boxes of one row from left to right, the first ``present`` of which are seen, and the arrows between."""
        x, before = _LEFT, ""
        for at, ((part, columns), (kind, look)) in enumerate(zip(wide.items(), boxes, strict=True)):
            key = f"{part}:{name}" if name else part
            self.nodes.append(
                Node(key, look.lines, kind, state=look.state, word=look.word, present=at < present, columns=columns,
                     rows=_ROWS, hint=look.hint, at=(x, y))
            )  # fmt: skip
            if before and part != "policy":
                quiet = look.state in ("off", "idle")
                self.edges.append(
                    Edge(f"{before}>{key}", before, key, state="idle" if quiet else look.state, present=at < present)
                )
            x, before = x + round(24 + columns * 7.4) + _GAP, key
        self._bottom = y + _TALL

    # --- the CPU ------------------------------------------------------------------------------------------------------

    def add_cpu(self, ambiguous: bool) -> None:
        """From IA32_PASID to what ENQCMD carries; at its end the policy and its price."""
        found = translation_of(self.machine, self.app)
        boxes = [
            ("process", self._process()),
            ("cpu", self._control(found)),
            ("directory", self._stop(found, 0)),
            ("table", self._stop(found, 1)),
            ("cpu", self._carried(found)),
            ("vm", self._policy(ambiguous)),
        ]
        self._row("", _CPU_WIDE, 0, boxes, present=len(boxes))

    def _process(self) -> _Look:
        pasid, msr = self.app.pasid, WIRE["msr"].format(value=f"{self.app.process.ia32_pasid:#x}")
        where = WIRE["on-host"] if self.native else WIRE["in"].format(where=self.app.altitude)
        if pasid is None:
            return _Look((self.app.name, WIRE["no-pasid"], where), "idle", "", msr)
        words = WIRE["host-pasid" if self.native else "guest-pasid"].format(pasid=pasid)
        state, word = ("live", WIRE["host"]) if self._same(pasid) else ("new", WIRE["guest"])
        return _Look((self.app.name, words, where), state, word, msr)

    def _same(self, pasid: int) -> bool:
        """Whether a number of the process's kernel is the host's."""
        return self.native or self.machine.vm(self.app.altitude).pasids.get(pasid) == pasid

    @property
    def _no_enqcmd(self) -> str:
        """Why the CPU has no part in it; empty if it has."""
        architecture = self.machine.cpu.architecture
        return "" if architecture.enqueues else architecture.why_no_enqueue

    def _control(self, found: PasidTranslation | None) -> _Look:
        if self._no_enqcmd:
            name = self.machine.cpu.architecture.name
            return _Look((WIRE["no-enqcmd"], WIRE["no-enqcmd-cpu"].format(cpu=name)), "off", " ", self._no_enqcmd)
        if self.native:
            return _Look((WIRE["control-native"], WIRE["control-why-native"]), "off", " ")
        vmcs = self.machine.vm(self.app.altitude).vmm.kvm.vmcs
        name = "on" if vmcs.translates_pasids else "off"
        lines = (WIRE["control"], WIRE[f"control-{name}"], WIRE[f"control-why-{name}"].format(vm=self.app.altitude))
        return _Look(lines, "live" if name == "on" else "off", " ")

    def _stop(self, found: PasidTranslation | None, at: int) -> _Look:
        """The directory entry or the table entry that was read."""
        title, pasid = ("directory", "table")[at], self.app.pasid
        index = split_pasid(pasid if pasid is not None else 0)
        half, entry = ("high" if index.high else "low"), (index.directory, index.table)[at]
        name = WIRE[title].format(half=half, entry=entry)
        if found is None or at >= len(found.stops):
            return _Look((name if found is not None else WIRE["no-table"], "", ""), "off", " ")
        stop = found.stops[at]
        layout = (VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY)[at]
        bits = " ".join(f"{field}={value:#x}" for field, value in layout.decode(stop.words).items())
        valid = at + 1 < len(found.stops) or found.host_pasid is not None
        first, _, second = bits.partition(" ")
        return _Look((name, first, second), "live" if valid else "off", " ", f"at {stop.address:#x}: {bits}")

    def _carried(self, found: PasidTranslation | None) -> _Look:
        pasid = self.app.pasid
        if self._no_enqcmd:
            return _Look((WIRE["no-enqcmd"], WIRE["no-enqcmd-out"]), "off", " ", self._no_enqcmd)
        if pasid is None:
            return _Look((WIRE["out"], WIRE["out-gp"]), "off", " ")
        if found is not None and found.host_pasid is None:
            return _Look((WIRE["out"], WIRE["out-exit"]), "pending", " ", found.failure.value if found.failure else "")
        self._out = pasid if found is None else found.host_pasid
        if found is None and not self._same(pasid):
            return _Look((WIRE["out"], WIRE["out-guest"].format(pasid=pasid)), "new", WIRE["guest"])
        return _Look((WIRE["out"], WIRE["out-host"].format(pasid=self._out)), "live", WIRE["host"])

    def _policy(self, ambiguous: bool) -> _Look:
        state = "fault" if ambiguous else "idle"
        word = WIRE["meanings"] if ambiguous else ""
        if self.native:
            return _Look((WIRE["policy-native"], WIRE["policy-native-rule"]), state, word)
        if FAMILIES[self.machine.iommu].binds_tables:
            return _Look((WIRE["policy-own"], WIRE["policy-own-rule"], WIRE["policy-own-more"]), state, word)
        policy = self.machine.vm(self.app.altitude).vmm.policy
        if policy is None:
            return _Look((WIRE["policy-none"], WIRE["policy-first"]), state, word)
        told = POLICIES[policy]
        rule, _, more = told.rule.partition(", ")
        return _Look(
            (WIRE["policy"].format(policy=policy), rule, more), state, word, f"{told.rule}; costs: {told.cost}"
        )

    # --- the devices --------------------------------------------------------------------------------------------------

    def add_line(self, row: int, line: WireLine | None) -> None:
        """The row of one device; hidden if there is none."""
        if line is None and row:
            self._row(str(row), _LINE_WIDE, _line_y(row), _empty("adi", _Look(("",), "off", "")), present=0)
        else:
            boxes = self._boxes(line) if line is not None else _nothing()
            self._row(str(row), _LINE_WIDE, _line_y(row), boxes, present=len(boxes))
        opened = line is not None and line.opened
        state = "live" if opened else "idle"
        self.edges.append(Edge(f"process>{row}", "process", f"device:{row}", state=state, present=line is not None))

    def add_more(self, row: int, lines: Sequence[WireLine]) -> None:
        """The devices that have no row of their own: how many, and their names."""
        names, opened = ", ".join(line.device for line in lines), any(line.opened for line in lines)
        state = "fault" if any(line.conflict for line in lines) else "live" if opened else "idle"
        words = WIRE["more"].format(count=len(lines), s="" if len(lines) == 1 else "s")
        look = _Look((words, names), state, " ", f"{words}: {names}")
        self._row(str(row), _LINE_WIDE, _line_y(row), _empty("device", look), present=1)
        state = "live" if opened else "idle"
        self.edges.append(Edge(f"process>{row}", "process", f"device:{row}", state=state))

    def _boxes(self, line: WireLine) -> list[tuple[str, _Look]]:
        way, reached = WAYS[line.way], line.reached
        kind = "adi" if line.kind == WIRE["adi"] else "device"
        where = f"{line.kind} of {line.parent}" if kind == "adi" else line.kind
        if not line.opened:
            closed = _Look((line.device, where, format_rid(line.rid)), "off", WIRE["not-open"])
            quiet = _Look((way[0], "", way[3]), "off", " ")
            empty = [_Look((words, ""), "off", " ") for words in (line.at, WIRE["wire-none"], WIRE["entry-none"])]
            nobody = _Look((WIRE["memory-none"],), "off", " ")
            return list(zip((kind, way[2], "queue", "pasid", "table", "memory"), (closed, quiet, *empty, nobody),
                            strict=True))  # fmt: skip
        bad = line.conflict
        wire = self._wire(line)
        return [
            (kind, self._device(line, where)),
            (way[2], self._way(line, wire)),
            ("queue", self._queue(line)),
            ("pasid", wire),
            ("table", _entry(self.machine, line)),
            ("memory", _memory(self, line, bad and reached is not None)),
        ]

    def _device(self, line: WireLine, where: str) -> _Look:
        """A device that the process has open: whether the host knows of it, and its number gets there."""
        lines = (line.device, where, format_rid(line.rid))
        if not line.conflict or line.wire:
            return _Look(lines, "live", " ")
        name = "no-number" if self._bound_on_host(line) else "no-entry"
        return _Look(lines, "pending", WIRE[name], WIRE[f"{name}-more"])

    def _bound_on_host(self, line: WireLine) -> bool:
        """Whether the process's PASID has an entry of the device."""
        if line.host is None:
            return False
        return self.machine.kernel.svm.number_on(line.rid, line.host) in device_entries(self.machine, line.parent)

    def _way(self, line: WireLine, wire: _Look) -> _Look:
        title, what, _, cost = WAYS[line.way]
        out = WIRE["wire-none"] if line.wire is None else str(line.wire)
        told = what.format(guest=line.guest, host=line.wire if line.wire is not None else line.host, out=out)
        return _Look((title, told, cost), wire.state, " ")

    def _queue(self, line: WireLine) -> _Look:
        mode = "dedicated" if line.dedicated else "shared"
        if line.at == WIRE["channel"]:
            return _Look((line.at, WIRE["own-register"]), "live", " ")
        if not line.dedicated:
            return _Look((f"{line.at} {mode}", WIRE["shared-has"], WIRE["shared-has-more"]), "live", " ")
        name = "register-none" if line.wire is None else "register-has"
        return _Look((f"{line.at} {mode}", WIRE[name].format(pasid=line.wire)), "live", " ")

    def _wire(self, line: WireLine) -> _Look:
        """The number on the wire, told as the guest's or the host's; loud if it leads elsewhere."""
        if line.wire is None:
            return _Look((WIRE["wire-none"],), "pending", " ")
        name = "same" if line.guest == line.host and not self.native else "host" if line.wire == line.host else "guest"
        state = "fault" if line.conflict else "new" if name == "guest" else "live"
        if name == "same":
            return _Look((WIRE["wire"].format(pasid=line.wire), WIRE["same"]), state, WIRE["host"])
        return _Look((WIRE["wire"].format(pasid=line.wire), format_rid(line.rid)), state, WIRE[name])

    # --- what is wrong ------------------------------------------------------------------------------------------------

    def add_conflict(self, seen: list[str], said: list[str]) -> None:
        """What is wrong, in one box below all rows: what is ``seen`` here, and what ``check()`` has ``said``."""
        sentences = [*seen, *(WIRE["check-says"].format(sentence=one) if seen else one for one in said)]
        shown, more = fold(sentences, _CONFLICT_ROWS)
        rest = [WIRE["more-sentences"].format(count=more)] if more else []
        lines = (WIRE["conflict-title"], *(f"{one}." for one in shown), *rest)
        word = WIRE["seen" if seen else "check"]
        self.nodes.append(
            Node("conflict", lines, "thing", state="fault", word=word, present=bool(sentences),
                 columns=_WHOLE, rows=_CONFLICT_ROWS + 1, hint=" ".join(sentences), at=(_LEFT, self._bottom + _ROW_GAP))
        )  # fmt: skip


def _line_y(row: int) -> int:
    return _TALL + _ROW_GAP + 10 + row * (_TALL + _ROW_GAP)


def _empty(kind: str, first: _Look, word: str = "") -> list[tuple[str, _Look]]:
    """A row in which only the first box, of this kind, says something."""
    rest = ("kernel", "queue", "pasid", "table", "memory")
    return [(kind, first), *((one, _Look(("",), "off", word)) for one in rest)]


def _nothing() -> list[tuple[str, _Look]]:
    """The row of a process without any device."""
    return _empty("adi", _Look((WIRE["no-device"], WIRE["assign"]), "off", " "), " ")


def _entry(machine: Machine, line: WireLine) -> _Look:
    """The entry that the number selects."""
    reached, words = line.reached, unit_words(machine.unit)
    if line.wire is None or reached is None:
        return _Look((WIRE["entry-none"],), "off", " ")
    name, entry = WIRE["entry"].format(pasid=line.wire), reached.entry
    if entry is None:
        code = WIRE["fault"].format(code=f"{reached.fault:#x}") if reached.fault else ""
        return _Look((name, code), "fault", words["absent"])
    said = WIRE["entry-more"].format(kind=reached.kind, tag=f"{words['short-tag']} {entry.tag}")
    bits = " ".join(f"{name}={value:#x}" for name, value in entry.layout.decode(entry.words).items() if value)
    root = f"{words['first-pointer']} {entry.first:#x}"
    return _Look((name, said, root), "live" if reached.mine else "fault", words["present"], bits)


def _memory(made: _Parts, line: WireLine, bad: bool) -> _Look:
    reached = line.reached
    if reached is None or not reached.present:
        return _Look((WIRE["memory-none"],), "off", " ")
    words = WIRE["memory"].format(whose=reached.whose)
    where = WIRE["on-host"] if made.native else WIRE["in"].format(where=made.app.altitude)
    return _Look((words, where if reached.mine else ""), "fault" if bad else "live", WIRE["foreign" if bad else "mine"])
