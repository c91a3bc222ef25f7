"""The tables of the administrators' comparison, from facts made up here."""

from pasidlab import Machine
from pasidlab.views.administrators import LESSONS, Administration, Asked, Tried, administrators, allowances, refusals
from pasidlab.views.table import table_html, table_text

FOUND = Administration(
    policy="fixed",
    api="dev-ioasid",
    room=9,
    admitted=(Tried("vm1 comes", words="admitted"), Tried("vm2 comes", "ENOSPC", "too much")),
    set_aside=5,
    asked=(
        Asked("vm1", 3, 3),
        Asked("vm2", 2, 0, words="not admitted"),
        Asked("vm1", 4, 2, "EINVAL", "used up <script>"),
    ),
    idle=4,
    smaller=Tried("a quota of 2", "EINVAL", "5 are out"),
    larger=Tried("a quota of 7", words="5 used of 7", then=Asked("vm1", 2, 1, "EINVAL", "used up again")),
    move=Tried("a move", words="moved", then=Asked("vm1", 1, 1)),
    missing=0,
)


def test_a_column_says_who_got_how_many_and_what_was_refused():
    """One column a combination, one row a question, the lesson last."""
    table = administrators([FOUND, FOUND._replace(policy="cgroup")])
    assert [column.title for column in table.columns] == ["question", "fixed, /dev/ioasid", "cgroup, /dev/ioasid"]
    assert [line.cells[:2] for line in table.rows] == [
        ("VMs admitted", "1 of 2"),
        ("PASIDs set aside", "5 of 9"),
        ("vm1 asks", "3 of 3"),
        ("vm2 asks", "not admitted"),
        ("vm1 asks again", "2 of 4, -EINVAL"),
        ("idle while somebody is refused", "4"),
        ("a quota of 2", "-EINVAL"),
        ("a quota of 7", "5 used of 7; asks: 1 of 2, -EINVAL"),
        ("a move", "moved; asks: 1 of 1"),
        ("missing when all have gone", "0"),
        ("it is", LESSONS["fixed"]),
    ]
    assert table.rows[-1].cells[2] == LESSONS["cgroup"]


def test_every_refusal_is_listed_with_errno_and_reason_in_order():
    """Those of VMs that asked again later too."""
    rows = [line.cells[2:] for line in refusals([FOUND]).rows]
    assert rows == [
        ("vm2 comes", "-ENOSPC", "too much"),
        ("vm1 asks for 4", "-EINVAL", "used up <script>"),
        ("a quota of 2", "-EINVAL", "5 are out"),
        ("a quota of 7, asks for 2", "-EINVAL", "used up again"),
    ]


def test_refusals_can_be_those_behind_one_row():
    """Each question of the one table leads to its answers in the other; most are answered without a refusal."""
    behind = {
        row.key: [line.cells[2] for line in refusals([FOUND], row.key).rows] for row in administrators([FOUND]).rows
    }
    assert {question: whats for question, whats in behind.items() if whats} == {
        "admitted": ["vm2 comes"],
        "asked-2": ["vm1 asks for 4"],
        "smaller": ["a quota of 2"],
        "larger": ["a quota of 7, asks for 2"],
    }


def test_without_facts_the_tables_are_empty():
    """And say so."""
    assert "nothing yet" in table_text(administrators([]))
    assert "nothing yet" in table_text(refusals([]))


def test_nothing_is_taken_for_markup():
    """Words come from names that people chose."""
    assert "<script>" not in table_html(refusals([FOUND]))


def test_allowances_are_the_quotas_of_sets_the_limits_of_processes_or_the_groups():
    """One table, whichever the policy is; what is above its limit stands out."""
    tables = {}
    for policy in ("fixed", "rlimit", "cgroup"):
        m = Machine(quota_policy=policy)
        vm = m.create_vm("vm1", quota=4, memory=1 << 20)
        vm.request_pasid(), vm.request_pasid()
        if policy != "fixed":
            vm.set_quota(1)
        tables[policy] = [(line.cells, line.state) for line in allowances(m).rows]
    assert tables["fixed"][1] == (("vm1", "4", "2", "4"), "live")
    assert tables["rlimit"] == [(("vm1", "1:1", "2", "0"), "pending")]
    assert tables["cgroup"] == [(("vm1", "1", "2", "1", "0", "vm1"), "pending")]
