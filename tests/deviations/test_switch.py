"""Each deviation switched on, on a machine that else keeps every rule: it breaks what its row says, no more or less."""

from importlib import import_module

import pytest

from pasidlab.deviations import DEVIATIONS
from tests.deviations.switch import DEVIANTS, SCENARIOS, Lab, switched_on

for subject in ("dying", "sets", "spids", "notifiers", "binding", "mediated", "administrators"):
    import_module(f"tests.deviations.{subject}")

NOT_ACTED_OUT = {
    "set-without-reference",
    "attach-any-owner",
    "pending-entry",
    "two-locks",
    "clean-up-in-atomic",
    "exit-to-nobody",
    "vdcm-current-mm",
    "set-made-late",
    "cgroup-cancelled-move",
}
"""Rows without scenario; why is their column ``lacks``."""
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
    assert {row.name for row in DEVIATIONS if row.lacks} == NOT_ACTED_OUT
    assert set(SCENARIOS) == set(DEVIANTS) == {row.name for row in ACTED_OUT}


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
