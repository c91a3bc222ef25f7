"""Domains: whole or auxiliary, the default PASID, and what a unit with fewer levels is told (facts 4.6, 4.3)."""

import pytest

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from tests.kernel.iommu.vtd.conftest import RID


@pytest.fixture
def domains(bench):
    """Two VMs' domains."""
    return bench.vm("vm1")[1], bench.vm("vm2")[1]


def test_a_device_with_auxiliary_domains_is_not_attached_as_a_whole(bench, domains):
    """-EPERM, for the same domain and for another, and nothing changed; once the last one has left it can be."""
    one, other = domains
    bench.driver.attach_aux(one, RID, bench.host_set)
    before = bench.time.digest()
    for domain in domains:
        error = bench.refused(bench.driver.attach_domain, domain, RID)
        assert (error.name, "auxiliary device" in error.reason) == ("EPERM", True)
    assert bench.time.digest() == before
    bench.driver.detach_aux(one, RID, bench.host_set)
    bench.driver.attach_domain(other, RID)


def test_a_device_that_is_attached_as_a_whole_takes_no_auxiliary_domain(bench, domains):
    """-EPERM: it is no device for auxiliary domains; no default PASID was allocated."""
    one, other = domains
    bench.driver.attach_domain(one, RID)
    before = bench.time.digest()
    for domain in domains:
        assert bench.refused(bench.driver.attach_aux, domain, RID, bench.host_set).name == "EPERM"
    assert other.default_pasid is None
    assert bench.time.digest() == before


def test_several_vms_share_a_device_by_auxiliary_domains(bench, domains):
    """Each with a default PASID of its own, behind a second-level entry over its own table."""
    for domain in domains:
        pasid = bench.driver.attach_aux(domain, RID, bench.host_set)
        entry = PASID_ENTRY.decode(bench.entry(pasid))
        assert (entry["PGTT"], entry["SLPTPTR"], entry["DID"]) == (2, domain.table.root, domain.did)
    assert domains[0].default_pasid != domains[1].default_pasid


def test_the_default_pasid_is_one_that_the_device_can_send(bench, domains):
    """A device whose PASIDs have 2 bits gets 1, 2 or 3."""
    devices = bench.driver.devices
    devices[RID] = devices[RID]._replace(pasid_bits=2)
    for number in (1, 2):
        bench.core.alloc(bench.host_set, number, number, "filler")
    assert bench.driver.attach_aux(domains[0], RID, bench.host_set) == 3
    assert bench.refused(bench.driver.attach_aux, domains[1], RID, bench.host_set).name == "ENODEV"


def test_a_domain_has_to_be_asked_for_nesting(bench):
    """A new domain is not in nesting mode; VFIO's containers of nesting type ask for it."""
    domain = bench.driver.domain_alloc("plain")
    assert domain.nesting is False
    domain.enable_nesting()
    assert domain.nesting is True


@pytest.mark.parametrize(("levels", "skipped"), [(5, 0), (4, 0), (3, 1), (2, 2)])
def test_for_a_unit_with_fewer_levels_upper_tables_are_skipped(bench, domains, levels, skipped):
    """While all addresses lie below the first entry of each; the table that is left has that many levels."""
    domain = domains[0]
    domain.map(0x5000, 0x8000)
    table = domain.table.root
    for _ in range(skipped):
        table = bench.memory.load(table) & ~0xFFF
    assert domain.fit(levels) == (table, 4 - skipped)


def test_a_table_that_does_not_fit(bench, domains):
    """Nothing below the first entry, or no level at all."""
    domain = domains[0]
    domain.map(1 << 39, 0x8000)
    assert domain.fit(4) is not None
    assert domain.fit(3) is None
    assert domain.fit(0) is None
