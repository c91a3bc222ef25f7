"""Put recorded tables and requests into a fresh unit and hear its verdicts.

Models nothing: it is the door through which verdicts of other implementations (emulators, hardware) are compared with
this one. A *case* is plain data as read from JSON; numbers are integers or text like ``"0x100400"``:

- ``rtaddr``: RTADDR; ``image``: address -> 64-bit word of memory, everything else is zero;
- ``probes``: requests, each with ``bdf`` (the requester ID), ``iova``, ``write``, and optionally ``pasid`` (absent or
  null: the request carries none), ``privileged``, ``access`` (instead of ``write``: read, write, execute, atomic).

What the emulator said stands in the same probe under other names and is not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NotRequired, TypedDict

from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.registers import FSTS, GCMD, GCMD_SRTP, GCMD_TE, RTADDR
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.timeline import HARDWARE, Timeline

__all__ = ["Case", "Number", "Probe", "Verdict", "load", "replay"]

Number = int | str


class Probe(TypedDict):
    """One request."""

    bdf: Number
    iova: Number
    write: NotRequired[bool]
    access: NotRequired[str]
    pasid: NotRequired[Number | None]
    privileged: NotRequired[bool]


class Case(TypedDict):
    """One memory, and the requests to make in it."""

    rtaddr: Number
    image: Mapping[str, Number]
    probes: Sequence[Probe]


class Verdict(NamedTuple):
    """What the unit did: an ``address``; or a fault ``code`` and the ``record`` (two words; ``None``: not recorded).

    ``walk`` is the explanation, asked for before the request was made.
    """

    request: DmaRequest
    address: int | None
    code: int | None
    record: tuple[int, int] | None
    walk: Walk


def load(case: Case, identity: VtdIdentity, ram: int) -> VtdUnit:
    """A fresh unit with ``ram`` bytes of memory, the case's image in it, and translation enabled."""
    timeline = Timeline()
    memory = PhysicalMemory(timeline, "ram", ram)
    for address, word in case["image"].items():
        memory.store(_number(address), _number(word))
    unit = VtdUnit(timeline, "unit", HARDWARE, memory, identity)
    unit.mmio_write(RTADDR, _number(case["rtaddr"]))
    unit.mmio_write(GCMD, GCMD_SRTP, 4)
    unit.mmio_write(GCMD, GCMD_TE, 4)
    return unit


def replay(case: Case, identity: VtdIdentity, ram: int) -> list[Verdict]:
    """Make every request of a case, in order; what an earlier one marked accessed or dirty stays so.

    >>> case: Case = {"rtaddr": "0x1400", "image": {}, "probes": [{"bdf": 0x10, "iova": 0x5000, "write": True}]}
    >>> verdict, = replay(case, VtdIdentity(), 1 << 20)
    >>> hex(verdict.code or 0), [hex(word) for word in verdict.record or ()]
    ('0x39', ['0x5000', '0x8000003900000010'])
    """
    unit = load(case, identity, ram)
    return [_probe(unit, probe) for probe in case["probes"]]


def _probe(unit: VtdUnit, probe: Probe) -> Verdict:
    request = _request(probe)
    walk = unit.walk(request)
    answer = unit.translate(request)
    if isinstance(answer, int):
        return Verdict(request, answer, None, None, walk)
    return Verdict(request, None, answer.code, _take_record(unit), walk)


def _request(probe: Probe) -> DmaRequest:
    access = probe.get("access", Access.WRITE if probe.get("write") else Access.READ)
    pasid = probe.get("pasid")
    return DmaRequest(
        _number(probe["bdf"]),
        _number(probe["iova"]),
        Access(access),
        None if pasid is None else _number(pasid),
        probe.get("privileged", False),
    )


def _take_record(unit: VtdUnit) -> tuple[int, int] | None:
    """Read the pending fault record through the registers and clear it, as a driver does."""
    status = (unit.mmio_read(FSTS, 4),)
    if not FSTS_REG["PPF"].get(status):
        return None
    offset = 16 * (unit.identity.fro + FSTS_REG["FRI"].get(status))
    record = unit.mmio_read(offset), unit.mmio_read(offset + 8)
    unit.mmio_write(offset + 12, 1 << 31, 4)
    return record


def _number(value: Number) -> int:
    return value if isinstance(value, int) else int(value, 0)
