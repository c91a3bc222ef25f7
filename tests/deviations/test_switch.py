"""Each deviation switched on, on a machine that else keeps every rule: it breaks what its row says, no more or less."""

from importlib import import_module

import pytest

from pasidlab.deviations import DEVIATIONS
from tests.deviations.switch import DEVIANTS, ROWS, SCENARIOS, Lab, switched_on

for subject in ("dying", "sets", "spids", "notifiers", "binding", "mediated", "administrators"):
    import_module(f"tests.deviations.{subject}")

NOT_ACTED_OUT = {
    "set-without-reference": "no other call runs between look-up and use",
    "attach-any-owner": "these calls do not name a set",
    "pending-entry": "an entry of a list is made in one step",
    "two-locks": "there are no threads that could wait for each other",
    "clean-up-in-atomic": "the IOMMU driver has no lock, and nothing waits",
    "exit-to-nobody": "the documents do not say what the report is, or to whom",
    "vdcm-current-mm": "what a guest asks of its device is always asked by its own hypervisor",
    "vdcm-other-references": "interrupt entries carry no PASID, and portals are not emulated",
    "set-made-late": "a container has its set from the start",
    "cgroup-cancelled-move": "moves have one step, which is never refused",
}
"""Rows without scenario, and why."""
ACTED_OUT = [row for row in DEVIATIONS if row.name not in NOT_ACTED_OUT]
NEEDY = [row for row in DEVIATIONS if row.needs]


def play(name, *on):
    """Play the scenario of a row with these deviations on: its answer, and which invariants broke."""
    script, _, _, options = SCENARIOS[name]
    lab = Lab(**options)
    with switched_on(lab.m, *on):
        return script(lab), lab.broken


def test_every_row_has_a_scenario_or_a_reason():
    """Nobody adds a row without acting it out, or saying what the model lacks."""
    assert {row.name: row.lacks for row in DEVIATIONS if row.lacks} == NOT_ACTED_OUT
    assert set(SCENARIOS) == set(DEVIANTS) == {row.name for row in ACTED_OUT}
    assert (len(DEVIATIONS), len(NOT_ACTED_OUT)) == (63, 10)


def test_every_scenario_shows_the_harm_by_itself():
    """Its answer is another one on the deviating model, whether or not an invariant breaks as well."""
    assert [name for name, (_, usual, deviating, _) in SCENARIOS.items() if usual == deviating] == []


@pytest.mark.parametrize("row", ACTED_OUT, ids=lambda row: row.name)
def test_the_reference_model_keeps_every_rule(row):
    """The scenario with nothing switched on: every invariant is true after every operation."""
    assert play(row.name) == (SCENARIOS[row.name].usual, set())


@pytest.mark.parametrize("row", ACTED_OUT, ids=lambda row: row.name)
def test_a_deviation_breaks_what_its_row_says(row):
    """The scenario with the row and what it needs switched on: its harm shows, and exactly these invariants break."""
    assert play(row.name, row.name, *row.needs) == (SCENARIOS[row.name].deviating, set(row.breaks))


@pytest.mark.parametrize("row", ACTED_OUT, ids=lambda row: row.name)
def test_a_deviating_machine_goes_on(row):
    """It can be taken to its end: every VM dies, all work is done, and what was broken can still be asked for."""
    script, _, _, options = SCENARIOS[row.name]
    lab = Lab(**options)
    with switched_on(lab.m, row.name, *row.needs):
        script(lab)
        for vm in lab.m.vms:
            vm.crash()
        lab.m.run()
    assert lab.m.pending == []
    assert lab.broken >= set(row.breaks)


@pytest.mark.parametrize("row", NEEDY, ids=lambda row: row.name)
def test_what_needs_others_does_no_harm_alone(row):
    """By itself it changes nothing, and what it needs does not do its harm."""
    assert play(row.name, row.name) == (SCENARIOS[row.name].usual, set())
    assert play(row.name, *row.needs) != (SCENARIOS[row.name].deviating, set(row.breaks))


def test_v4_as_a_whole_lets_kvm_ignore_free():
    """With UNBIND from the clean-up KVM's entry goes after all: the two rows together break nothing."""
    answer, broken = play("kvm-ignores-free", "kvm-ignores-free", "dying-unbind")
    assert (answer, broken) == (SCENARIOS["kvm-ignores-free"].usual, set())


def test_a_switch_is_one_machines():
    """Another machine keeps every rule meanwhile, and so does the same model afterwards."""
    script, usual, deviating, _ = SCENARIOS["quota-kept"]
    here, there = Lab(), Lab()
    with switched_on(here.m, "quota-kept"):
        assert (script(there), there.broken) == (usual, set())
        assert (script(here), here.broken) == (deviating, {5})
    assert play("quota-kept") == (usual, set())


def test_all_can_be_on_at_once():
    """No two rows want the same place, so that any of them can be combined."""
    lab = Lab()
    with switched_on(lab.m, *DEVIANTS):
        assert len({ROWS[name].site for name in DEVIANTS}) == len(DEVIANTS)
