"""Draw the pictures of README and docs from the model itself: `make pictures`.

They are committed, because the pages that show them run nothing; a test compares what they say with what the model
says now.
"""

from __future__ import annotations

from pathlib import Path

from pasidlab import Machine
from pasidlab.stories import STORIES
from pasidlab.timeline import Verb
from pasidlab.views import svg
from pasidlab.views.bars_svg import bars_svg
from pasidlab.views.bits_svg import bits_svg
from pasidlab.views.chains import chains
from pasidlab.views.keepers import keepers
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.pasid_table import entry_bits
from pasidlab.views.quota_bars import quota_bars
from pasidlab.views.walk_graph import walk_graph

HERE = Path(__file__).parent
_CHAPTER = "Neither can reach"


def pictures() -> dict[str, str]:
    """Every picture by its file name."""
    return _two_vms() | _free_before_unbind() | _walks()


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


def main() -> None:
    """Write the files."""
    for name, drawn in pictures().items():
        (HERE / name).write_text(drawn + "\n")


if __name__ == "__main__":
    main()
