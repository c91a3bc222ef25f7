"""The tables of the policies' comparison, from facts made up here."""

from pasidlab.views.policies import Asked, Given, Mixture, Reached, Side, conflicts, policies
from pasidlab.views.price import Price
from pasidlab.views.table import table_html, table_text
from pasidlab.virt.policies import POLICIES

PRICE = Price(traps=5, exits=0, ioctls=3, delivered=2, invalidations=1, ioasids=2, host_words=6, kvm_words=3)
SIDE = Side(
    entries=(1, 2),
    wire=(1, 2),
    asked=(Asked("ann", ("vm",), True), Asked("ben", ("other",), False, ("eve",))),
    reached=(Reached("ann", 1, ("ann",)), Reached("ben", 4, ("dan",)), Reached("cat", None, ())),
)
FOUND = Mixture(
    policy="unenforced",
    first="function",
    given=(Given("function"), Given("interface", "EPERM", "no <script>")),
    numbers=((1, 4), (2, 5)),
    default=None,
    price=PRICE,
    kvm_entries=2,
    kvm_pages=3,
    function=SIDE,
    interface=None,
    conflicts=("4 has two meanings",),
    left=0,
)


def test_a_column_tells_everything_about_one_policy():
    """One row a question, the price last."""
    table = policies([FOUND])
    answers = {row.key: row.cells[1] for row in table.rows}
    assert answers["guest"] == "1, 2"
    assert answers["host"] == "4, 5"
    assert (answers["given-function"], answers["given-interface"]) == ("yes", "-EPERM")
    assert (answers["wire-function"], answers["wire-interface"]) == ("1, 2", "-")
    assert (answers["traps"], answers["ioasids"], answers["kvm"]) == ("5", "2", "2 entries, 3 pages")
    assert answers["pages"] == "1 of 2 brought, 1 to the wrong owner"
    assert answers["enqcmd-function"] == "1 of 3 to its own memory, 1 to another's"
    assert answers["cost"] == POLICIES["unenforced"].cost
    assert table.rows[-1].key == "cost"


def test_a_column_says_which_device_came_first_where_that_decides():
    """Not where one kind is never allowed, and not where both are."""
    assert policies([FOUND]).columns[1].title == "unenforced, a whole function first"
    assert FOUND._replace(given=(Given("function"),)).name == "unenforced"
    assert FOUND._replace(policy="translated").name == "translated"


def test_a_default_pasid_is_told_beside_the_others():
    """It is taken, too."""
    answers = {row.key: row.cells[1] for row in policies([FOUND._replace(default=3)]).rows}
    assert answers["ioasids"] == "2 and the default PASID 3"


def test_refusals_and_harm_are_listed_in_words():
    """With errno, with who was harmed, with what check() says."""
    rows = [row.cells[1:] for row in conflicts([FOUND]).rows]
    assert rows == [
        ("an interface (-EPERM)", "no <script>"),
        ("ben asks for a page", "eve gets one, ben does not"),
        ("ben's ENQCMD to a whole function", "arrives as 4 and is carried out in the memory of dan"),
        ("cat's ENQCMD to a whole function", "is not accepted"),
        ("invariant 14", "4 has two meanings"),
    ]


def test_without_facts_the_tables_are_empty():
    """And say so."""
    assert "nothing yet" in table_text(policies([]))
    assert "nothing yet" in table_text(conflicts([]))


def test_nothing_is_taken_for_markup():
    """Words come from names that people chose."""
    assert "<script>" not in table_html(conflicts([FOUND]))


def test_prices_add_up():
    """Field by field; what is zero is not told."""
    assert (PRICE + PRICE).traps == 10
    assert str(Price()) == "nothing"
    assert str(PRICE).startswith("5 traps, 3 ioctls")
