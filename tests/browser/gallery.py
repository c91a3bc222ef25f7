"""Figures, a ladder and a table to look at and to test with: the talk's two VMs, drawn by hand, not by a machine."""

from __future__ import annotations

from pasidlab.views import Cluster, Column, Edge, Figure, Ladder, Lane, Line, Node, Row, Table

HOSTILE = 'vm1 "><script>alert(1)</script>'


def machine_map(
    vms: int = 2, bound: int = 0, fault: bool = False, names: tuple[str, ...] = (), room: int = 2
) -> Figure:
    """A machine with ``vms`` of ``room`` VMs, of which ``bound`` have a bound PASID."""
    nodes = [
        Node("kvm", ("KVM", f"{bound} PASIDs translated"), "kernel", "host", "live" if bound else "idle", columns=22),
        Node("ioasid", ("IOASID core", f"{vms} sets, {bound} IDs"), "kernel", "host", "live", columns=22),
        Node("dsa0", ("dsa0", "0000:6a:01.0"), "device", "hardware", "live", columns=22),
        Node("vtd", ("VT-d", "scalable mode"), "iommu", "hardware", "fault" if fault else "live", columns=22),
    ]
    edges = [
        Edge("dsa0-vtd", "dsa0", "vtd", "flow", "fault" if fault else "live" if bound else "idle", "DMA", columns=5)
    ]
    clusters = [Cluster("host", "host kernel"), Cluster("hardware", "hardware")]
    for at in range(1, room + 1):
        name = names[at - 1] if at <= len(names) else f"vm{at}"
        taken, live = at <= vms, at <= bound
        clusters.append(Cluster(f"guest:{at}", name))
        nodes += [
            Node(f"app:{at}", ("app", "CR3 0x123000"), "process", f"guest:{at}", "live" if live else "idle", taken),
            Node(
                f"adi:{at}",
                (f"adi{at}", "shared queue wq0"),
                "adi",
                f"guest:{at}",
                "live" if live else "off",
                taken,
                "bound" if live else "not bound",
                at == bound,
            ),
        ]
        edges += [
            Edge(f"bind:{at}", f"app:{at}", f"adi:{at}", state="live", label="PASID 1", present=live, columns=9),
            Edge(f"dma:{at}", f"adi:{at}", "dsa0", "flow", "live" if live else "off", f"{100 + at}", columns=5),
            Edge(f"set:{at}", f"app:{at}", "kvm", "link"),
        ]
    edges.append(Edge("kvm-ioasid", "kvm", "ioasid", label="notified", columns=9))
    return Figure("map", "Machine", tuple(nodes), tuple(edges), tuple(clusters), note="Two VMs share one accelerator")


def bind_ladder(present: str = "", rows: int = 99) -> Ladder:
    """What one bind in a guest sets in motion."""
    lanes = (
        Lane("app", "app", "vm1"),
        Lane("guest", "guest kernel", "vm1"),
        Lane("vmm", "VMM", "host"),
        Lane("vfio", "VFIO", "host"),
        Lane("ioasid", "IOASID core", "host"),
        Lane("driver", "VT-d driver", "host"),
        Lane("kvm", "KVM", "host"),
        Lane("vtd", "VT-d", "hardware"),
    )
    events = (
        Row("1", "app", "guest", "bind(adi1)"),
        Row("2", "guest", "vmm", "trap: virtual command, allocate a PASID", depth=1),
        Row("3", "vmm", "vfio", "ioctl ALLOC", depth=2),
        Row("4", "vfio", "ioasid", "alloc in set 2", "1 of 64 used", 3),
        Row("5", "ioasid", "", "PASID 101, SPID 1", depth=4),
        Row("6", "vfio", "vmm", "101", depth=3, kind="answer"),
        Row("7", "guest", "", "writes PASID entry 1: PGTT first-level, FLPTPTR 0x0000000000123000", depth=1),
        Row("8", "guest", "vmm", "trap: PASID-cache invalidation", depth=1),
        Row("9", "vmm", "vfio", "ioctl BIND", depth=2),
        Row("10", "vfio", "driver", "bind_gpasid", depth=3),
        Row("11", "driver", "vtd", "writes PASID entry 101: nested", depth=4),
        Row("12", "driver", "ioasid", "BIND 101", depth=4, kind="notify"),
        Row("13", "ioasid", "kvm", "handler, priority CPU", depth=5),
        Row("14", "kvm", "", "entry 1 → 101 valid", depth=6),
        Row("15", "app", "vtd", "DMA with PASID 9", "PASID entry not present: 0x58", kind="fault"),
        Row("16", "guest", "vmm", "allocate a PASID", "-ENOSPC: vm1 has used its quota of 64", kind="refuse"),
    )
    return Ladder("flow", "Bind in vm1", lanes, events[:rows], present, "What one bind sets in motion")


def pasid_table(present: int = 2, fault: bool = False) -> Table:
    """The present entries of a PASID table."""
    columns = (
        Column("pasid", "PASID", mono=True),
        Column("owner", "owner"),
        Column("pgtt", "PGTT"),
        Column("pointer", "FLPTPTR", mono=True),
        Column("state", "state"),
    )
    rows = tuple(
        Line(
            f"pasid:{100 + at}",
            (str(100 + at), f"vm{at}", "nested", f"0x{at:013x}000", "fault" if fault and at == 1 else "present"),
            "fault" if fault and at == 1 else "live",
            ("state",) if fault and at == 1 else (),
        )
        for at in range(1, present + 1)
    )
    return Table("pasid-table", "PASID table of dsa0", columns, rows, "no entry is present")
