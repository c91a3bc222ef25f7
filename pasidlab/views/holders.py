"""Projection: who holds what. Every IOASID that is out, with owner, state, guest number and its holders' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.views.numbers import counted
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["holders"]

_STATES = {"active": "live", "free-pending": "pending"}


def holders(machine: Machine) -> Table:
    """Who holds what at the present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> holders(m).rows[0].cells
    ('1', 'host', 'idle', '', '1: aux-domain:vm1')
    """
    columns = (
        Column("ioasid", "IOASID", mono=True),
        Column("owner", "owner (set)"),
        Column("state", "state"),
        Column("spid", "guest PASID (SPID)", mono=True),
        Column("holders", "references"),
    )
    rows = tuple(
        Line(
            f"ioasid:{number}",
            (
                str(number),
                record.owner.name,
                str(record.state),
                "" if record.spid is None else str(record.spid),
                f"{record.refs}: {', '.join(record.holders)}",
            ),
            _STATES.get(str(record.state), "idle"),
        )
        for number, record in machine.kernel.ioasid.ids.items()
    )
    title = f"Who holds what: {counted(len(rows), 'IOASID')} out"
    return Table("holders", title, columns, rows, empty="No IOASID is allocated.")
