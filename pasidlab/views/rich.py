"""How notebooks show what a person holds: the machine as its map, a function as its PASID table, the rest as small
tables; below a VM's table its quota, below a process's what its devices carry on the wire.
"""

from __future__ import annotations

from dataclasses import replace

from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice, Handle, PhysicalFunction, VirtualMachine
from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.pcie import format_rid
from pasidlab.machine import Machine
from pasidlab.views import style
from pasidlab.views.bars_svg import bars_svg
from pasidlab.views.escape import html
from pasidlab.views.explain import explain
from pasidlab.views.fields import field_table
from pasidlab.views.figure import Figure
from pasidlab.views.machine_map import machine_map
from pasidlab.views.occupancy import set_use, set_words
from pasidlab.views.pasid_table import pasid_table
from pasidlab.views.quota_bars import quota_bar
from pasidlab.views.stale import stale_stops
from pasidlab.views.still import svg
from pasidlab.views.table import Column, Line, Table, table_html
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_table import stop_bits, walk_table
from pasidlab.views.wire_figure import on_the_wire

__all__ = ["bundle", "picture", "walk_bundle"]

_COLUMNS = (Column("what", "what"), Column("value", "value"))


def bundle(handle: Handle) -> dict[str, str]:
    """The MIME types of a handle's picture, its own text left out; nothing for what is gone.

    >>> from pasidlab import Machine
    >>> sorted(bundle(Machine().spawn("app")))
    ['text/html']
    """
    try:
        drawn = picture(handle)
    except KernelError:
        return {}
    if drawn is None:
        return {}
    shown = {kind: text for kind, text in drawn._repr_mimebundle_().items() if kind != "text/plain"}
    if isinstance(handle, VirtualMachine) and not handle.vmm.container.set.retired:
        bar = bars_svg(quota_bar(handle.machine, handle.vmm.container.set.set_id))
        shown["text/html"] = f"<div>{shown['text/html']}{bar}</div>"
    if isinstance(handle, App):
        shown["text/html"] = f"<div>{shown['text/html']}{svg(on_the_wire(handle.machine, handle))}</div>"
    return shown


def walk_bundle(walk: Walk) -> dict[str, str]:
    """The MIME types of a walk's picture: the figure, how it ended in words, the table of its stops, and each stop's
    fields, to be opened.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); sorted(walk_bundle(m.translate(dsa.rid, 9)))
    ['text/html']
    """
    stale = stale_stops(walk)
    said = explain(walk, stale)
    words = "".join(f"<p>{html(sentence)}</p>" for sentence in said.sentences)
    stops = "".join(_opened(field_table(stop_bits(walk, at))) for at in range(len(walk.stops)))
    table = f"<style>{style.live()}</style>{table_html(walk_table(walk, stale))}{stops}"
    below = f'<div class="pasidlab"><p><strong>{html(said.title)}</strong></p>{words}{table}</div>'
    return {"text/html": f"<div>{svg(walk_graph(walk, stale=stale))}{below}</div>"}


def _opened(table: Table) -> str:
    """A table behind its title: a click opens it."""
    return f"<details><summary>{html(table.title)}</summary>{table_html(replace(table, title=''))}</details>"


def picture(handle: Handle) -> Figure | Table | None:
    """The figure or table that shows a handle; ``KernelError`` if what it names is gone."""
    if isinstance(handle, Machine):
        return machine_map(handle)
    if isinstance(handle, PhysicalFunction):
        return pasid_table(handle.machine, handle.name)
    if isinstance(handle, VirtualMachine):
        return _vm(handle)
    if isinstance(handle, App):
        return _app(handle)
    if isinstance(handle, AssignedDevice):
        return _device(handle)
    return None


def _vm(vm: VirtualMachine) -> Table:
    the_set = vm.vmm.container.set
    use = next((use for use in set_use(vm.machine) if use.set_id == the_set.set_id), None)
    pairs = ", ".join(f"{guest} = host {host}" for guest, host in vm.pasids.items())
    return _table(
        f"VM {vm.name}",
        (
            "PASIDs",
            f"{set_words(use)} (ioasid_set {the_set.set_id})" if use is not None else "its ioasid_set has ended",
        ),
        ("numbers", pairs or "none"),
        ("policy", vm.vmm.policy or "the first device decides"),
        ("devices", ", ".join(device.name for device in vm.devices) or "none"),
        ("processes", ", ".join(app.name for app in vm.apps) or "none"),
    )


def _app(app: App) -> Table:
    process, pasid = app.process, app.pasid
    devices = [driver.name for driver in app.kernel.drivers.values() if driver.channel_of(process) is not None]
    return _table(
        f"process {app.name}",
        ("runs on", f"{app.altitude}, pid {process.pid}"),
        ("PASID", str(pasid) if pasid is not None else "none: not bound"),
        ("IA32_PASID", f"{process.ia32_pasid:#x}"),
        ("page table", f"{process.mm.root:#x}"),
        ("bound to", ", ".join(devices) or "nothing"),
    )


def _device(device: AssignedDevice) -> Table:
    kind = (
        "assignable interface: registers trap, the portal does not"
        if device.mediated
        else "physical function, unmediated"
    )
    return _table(
        f"device {device.name}",
        ("kind", kind),
        ("belongs to", device.vm_name),
        ("cut from", device.parent.name),
        ("on the bus", format_rid(device.rid)),
    )


def _table(title: str, *rows: tuple[str, str]) -> Table:
    return Table("handle", title, _COLUMNS, tuple(Line(name, (name, value)) for name, value in rows))
