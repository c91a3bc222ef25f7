"""Whatever an IOMMU can or cannot do, a machine with it works, or says why it does not."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab import KernelError, Machine
from pasidlab.hardware.iommu.vtd.identity import Revision, VtdIdentity

FLAGS = (
    *("psi", "fl1gp", "fl5lp", "esrtps", "qi", "dt", "pt", "sc", "nest", "prs", "ers", "srs", "eafs", "pasid"),
    *("pds", "smts", "ssads", "ssts", "fsts", "smpwcs", "rps", "adms", "rprivs", "caches", "c"),
)


@st.composite
def cards(draw):
    """The default card with some abilities switched over, and other sizes."""
    flipped = draw(st.sets(st.sampled_from(FLAGS), max_size=4))
    changed: dict[str, Any] = {flag: not getattr(VtdIdentity(), flag) for flag in flipped}
    changed["sagaw"] = draw(st.sampled_from([0b00100, 0b00010, 0b00110, 0b01110]))
    changed["sllps"] = draw(st.sampled_from([0, 1, 3]))
    changed["pss"] = draw(st.sampled_from([19, 15, 7]))
    changed["nfr"] = draw(st.sampled_from([1, 8]))
    changed["mamv"] = draw(st.sampled_from([0, 18]))
    changed["revision"] = draw(st.sampled_from(list(Revision)))
    return replace(VtdIdentity(), **changed)


def attempt(call, *args, **kwargs):
    """What a call returns, or ``None`` when the modelled kernel refused it."""
    try:
        return call(*args, **kwargs)
    except KernelError:
        return None


@settings(max_examples=120)
@given(cards())
def test_a_machine_with_any_iommu_works_or_refuses(card):
    """Native and guest SVA with copies and page requests; the invariants hold after every call; bytes that a
    successful copy moved are the right ones.
    """
    machine = attempt(Machine, identity=card)
    if machine is None:
        assert not (card.smts and card.qi and card.pasid and card.pt)
        return
    dsa = machine.plug_accelerator("dsa0")
    apps = [(machine.spawn("native"), dsa)]
    vm = attempt(machine.create_vm, "vm1", memory=1 << 20)
    adi = attempt(machine.assign_adi, dsa, vm) if vm is not None else None
    if adi is not None:
        apps.append((vm.spawn("guest"), adi))
    worked = 0
    for app, device in apps:
        if attempt(app.bind, device) is None:
            continue
        source, lazy = app.buffer(b"bytes"), app.buffer(5, populate=False)
        outcome = attempt(app.copy, device, source, lazy, 5, block_on_fault=True)
        assert machine.check().ok, machine.check()
        if outcome is not None and outcome.ok:
            worked += 1
            assert app.read(lazy, 5) == b"bytes"
        app.free(source)
        app.unbind(device)
        assert machine.check().ok, machine.check()
    if card == replace(VtdIdentity(), revision=card.revision, nfr=card.nfr, mamv=card.mamv, sllps=card.sllps):
        assert worked == 2
    if vm is not None:
        vm.crash()
    assert machine.check().ok, machine.check()
    assert machine.pending == []
