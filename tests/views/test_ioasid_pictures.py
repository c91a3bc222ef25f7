"""The pictures of IOASIDs under every quota policy and both ways to ask for PASIDs, at each step of a history."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.machine import PASID_APIS
from pasidlab.views import text, topology
from pasidlab.views.bars import bars_text
from pasidlab.views.chains import chains
from pasidlab.views.keepers import keepers
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.occupancy import set_use, space_use
from pasidlab.views.quota_bars import quota_bars
from pasidlab.views.room import Room


def history(policy: str, api: str) -> Machine:
    """Two VMs and a native process; one guest frees too early, the other VM crashes."""
    machine = Machine(quota_policy=policy, pasid_api=api)
    dsa = machine.plug_accelerator("dsa0")
    vm1, vm2 = machine.create_vm("vm1", quota=8), machine.create_vm("vm2", quota=4)
    adi1, adi2 = machine.assign_adi(dsa, vm1, queue="dedicated"), machine.assign_adi(dsa, vm2)
    vm1.spawn("app").bind(adi1)
    vm2.spawn("app").bind(adi2)
    machine.spawn("native").bind(dsa)
    vm1.free_pasid(1)
    machine.run()
    vm2.crash()
    return machine


@pytest.mark.parametrize("policy", QUOTA_POLICIES)
@pytest.mark.parametrize("api", PASID_APIS)
def test_every_step_can_be_shown_and_looking_changes_nothing(policy: str, api: str) -> None:
    """Forwards and backwards: the same step is the same picture, and the machine has the digest that it had."""
    machine = history(policy, api)
    time, room = machine.timeline, Room()
    digest = time.digest()
    shown: dict[int, str] = {}
    for step in [*range(time.floor, time.last + 1), *range(time.last, time.floor, -7)]:
        time.go(step)
        texts = [text(figure) for figure in (keepers(machine, 3), life_cycle(machine), chains(machine))]
        texts.append(bars_text(quota_bars(machine)))
        assert shown.setdefault(step, "\n".join(texts)) == "\n".join(texts)
        use = space_use(machine)
        assert min(use) >= 0
        assert use.promised + use.policy + use.reserved + use.left == use.total
        assert len({topology(life_cycle(machine, room)).edges}) == 1
    time.go(time.last)
    assert time.digest() == digest


@pytest.mark.parametrize("policy", QUOTA_POLICIES)
def test_a_set_has_a_quota_or_says_that_it_has_none(policy: str) -> None:
    """Whatever the administrator's policy is."""
    machine = Machine(quota_policy=policy)
    machine.create_vm("vm1", quota=8)
    use = set_use(machine)[-1]
    said = quota_bars(machine).bars[-1].said
    assert said == ("0 of 8, 8 left" if use.quota is not None else "0, no quota of its own")


@pytest.mark.parametrize(
    ("api", "said"), [("vfio", "VFIO, for the guest of vm1"), ("dev-ioasid", "/dev/ioasid, for vm1")]
)
def test_the_allocator_is_named_for_what_it_is(api: str, said: str) -> None:
    """The container, or the device file."""
    machine = history("fixed", api)
    time = machine.timeline
    while 3 not in machine.kernel.ioasid.ids or machine.kernel.ioasid.ids[3].free_pending:
        time.back()
    assert keepers(machine, 3).nodes[0].lines[1] == said
