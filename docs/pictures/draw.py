"""Draw the pictures of README and docs from the model itself: `make pictures`.

They are committed, because the pages that show them run nothing; a test compares what they say with what the model
says now.
"""

from __future__ import annotations

from pathlib import Path

from pasidlab import Machine
from pasidlab.stories import STORIES
from pasidlab.stories.compare import compare_machines
from pasidlab.timeline import Verb
from pasidlab.views import svg
from pasidlab.views.bars_svg import bars_svg
from pasidlab.views.bits_svg import bits_svg
from pasidlab.views.chains import chains
from pasidlab.views.compare_figure import compare_figure
from pasidlab.views.compare_words import STEPS
from pasidlab.views.keepers import keepers
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.pasid_table import entry_bits
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.quota_bars import quota_bars
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.wire_figure import on_the_wire

HERE = Path(__file__).parent
_CHAPTER = "Neither can reach"


def pictures() -> dict[str, str]:
    """Every picture by its file name."""
    return _two_vms() | _free_before_unbind() | _walks() | _two_numbers() | _three_iommus()


def _two_vms() -> dict[str, str]:
    """The two-VM story at the moment when both guests are bound and have copied."""
    m = Machine()
    for caption in STORIES["two-vms"].tell(m):
        if caption.startswith(_CHAPTER):
            break
    return {"two-vms.svg": svg(machine_map(m)), "guest-to-host.svg": svg(guest_to_host(m))}


def _free_before_unbind() -> dict[str, str]:
    """A guest gives a PASID back that a device still uses: while KVM is told, and what is left to do afterwards."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vm1, vm2 = m.create_vm("vm1", quota=8), m.create_vm("vm2", quota=4)
    adi1, adi2 = m.assign_adi(dsa, vm1, queue="dedicated"), m.assign_adi(dsa, vm2)
    vm1.spawn("app").bind(adi1)
    vm2.spawn("app").bind(adi2)
    host = vm1.pasids[1]
    vm1.free_pasid(1)
    made = {"ioasid-keepers.svg": svg(keepers(m, host)), "ioasid-quotas.svg": bars_svg(quota_bars(m))}
    while m.timeline.events[-1].verb is not Verb.CLEAR_ENTRY:
        m.timeline.back()
    made["ioasid-notifiers.svg"] = svg(chains(m))
    while m.timeline.events[-1].verb is not Verb.NOTIFY:
        m.timeline.back()
    return made | {"ioasid-life.svg": svg(life_cycle(m))}


def _walks() -> dict[str, str]:
    """A nested walk that leads to a page, one that ends in a fault, and the PASID entry behind both."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1", quota=8)
    adi, app = m.assign_adi(dsa, vm), vm.spawn("app")
    guest = app.bind(adi)
    pasid = vm.pasids[guest]
    page = app.buffer(b"hello")
    return {
        "walk.svg": svg(walk_graph(m.translate(dsa.rid, pasid, page, caches=False))),
        "walk-fault.svg": svg(walk_graph(m.translate(dsa.rid, pasid, page + 0x1000, caches=False))),
        "pasid-entry.svg": bits_svg(entry_bits(m, dsa.name, pasid)),
    }


def _two_numbers() -> dict[str, str]:
    """One process on a function and an interface, with nobody to keep numbers apart; and the queue of three VMs."""
    m = Machine()
    function, parent = m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")
    vms = [m.create_vm(f"vm{at}", policy="unenforced" if at == 1 else None) for at in (1, 2, 3)]
    devices = [m.assign_adi(parent, vm) for vm in vms]
    function_in_vm = m.assign_pf(function, vms[0])
    apps = [vm.spawn("app") for vm in vms]
    for app, device in zip(apps, devices, strict=True):
        app.bind(device)
    apps[0].bind(function_in_vm, queue="dedicated")
    for app, device in zip(apps, devices, strict=True):
        src, dst = app.buffer(bytes(8000)), app.buffer(8000)
        app.submit(device, src, dst, 8000)
    m.run(m.pending[1].number)
    return {"two-numbers.svg": svg(on_the_wire(m, apps[0])), "shared-queue.svg": svg(work_queue(m, "dsa1", 0))}


def _three_iommus() -> dict[str, str]:
    """The same guest with two processes on every kind of IOMMU: which way silicon goes, and what the host copies."""
    found = compare_machines()
    moment = found.go(found.ends[list(STEPS).index("second") + 1])
    return {"three-iommus.svg": svg(compare_figure(found, moment, priced=False))}


def main() -> None:
    """Write the files."""
    for name, drawn in pictures().items():
        (HERE / name).write_text(drawn + "\n")


if __name__ == "__main__":
    main()
