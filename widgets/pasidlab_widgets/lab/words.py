"""Every word that the lab shows: labels, hints, reasons why a button rests, and what an answer means.

Plain English for a newcomer; names are those of the kernel and the specifications. Templates are filled with
``str.format``; whoever puts the result into HTML escapes it. The mistakes to make stand in
:mod:`~pasidlab_widgets.lab.mistake_words`, what the panes of the IOMMU say in
:mod:`~pasidlab_widgets.lab.probe_words`, those about policies of VMs and about traps in
:mod:`~pasidlab_widgets.lab.hypervisor_words`.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADMINISTRATORS",
    "APIS",
    "BANNER",
    "BUTTONS",
    "CHART",
    "EMPTY",
    "ERRNO",
    "FAULT",
    "FIELDS",
    "GROUPS",
    "IOMMUS",
    "LABELS",
    "MESSAGES",
    "PANES",
    "POLICIES",
    "QUOTA",
    "TRAVEL",
    "WHY",
]

GROUPS: Final = {
    "machine": "Machine",
    "vm": "Virtual machine",
    "process": "Process",
    "mistake": "Try something wrong",
}

PANES: Final = {
    "map": "Machine map",
    "mapping": "Guest → host",
    "table": "PASID table",
    "flow": "Flow of the operation",
    "entry": "Bit by bit",
    "holders": "Who holds what",
    "ioasids": "IOASIDs",
    "life": "Life cycle",
    "keepers": "Who keeps it alive",
    "chains": "Notifier chains",
    "space": "Quotas",
    "administrators": "Administrators",
    "lines": "Python lines",
    "probe": "Probe",
    "memory": "Memory",
    "caches": "Caches",
    "wire": "On the wire",
    "queue": "Queue",
    "hypervisor": "Hypervisor",
    "compare": "Compare",
}

FIELDS: Final = {
    "device-name": "Device",
    "vm-name": "Name",
    "quota": "Quota",
    "vm": "VM",
    "device": "Device",
    "queue": "Queue",
    "where": "Runs in",
    "process-name": "Name",
    "process": "Process",
    "opened": "Device",
    "text": "Text",
    "mistake": "Mistake",
    "iommu": "IOMMU",
    "policy": "Policy",
    "api": "Through",
    "table-device": "Device",
    "ioasid": "IOASID",
    "probe-device": "Device",
    "probe-pasid": "PASID",
    "probe-address": "Address",
    "probe-access": "Access",
    "probe-caches": "Answered by",
    "probe-privileged": "privileged",
    "memory-of": "Memory",
    "memory-address": "Address",
    "numbers": "PASIDs",
    "work": "Work",
    "wire-process": "Process",
    "queue-device": "Device",
    "queue-number": "Queue",
    "trap": "Trap",
    "alter-to": "Number",
}

POLICIES: Final = {
    "fixed": "fixed: a quota per VM",
    "rlimit": "rlimit: a limit per process",
    "cgroup": "cgroup: a max per group",
}
APIS: Final = {"vfio": "VFIO", "dev-ioasid": "/dev/ioasid"}
IOMMUS: Final = {"vtd": "Intel VT-d", "smmuv3": "Arm SMMUv3", "amdvi": "AMD"}
"""The kinds of IOMMU that a new machine may have."""

BUTTONS: Final[dict[str, tuple[str, str]]] = {
    "plug": ("Plug in", "Plug in a DSA-like accelerator with 2 shared and 4 dedicated work queues."),
    "check": ("Check", "Evaluate the rules that must hold in every state."),
    "run-next": ("Run next", "Carry out the oldest piece of waiting work."),
    "run-all": ("Run all", "Carry out waiting work until none is left."),
    "create-vm": ("Create VM", "Start a hypervisor with KVM and VFIO, and boot a guest."),
    "set-quota": ("Set quota", "Allow the chosen VM as many PASIDs as the field says."),
    "assign-adi": ("Assign ADI", "Cut an assignable device interface from a work queue and give it to the VM."),
    "assign-pf": ("Assign PF", "Give the whole physical function to the VM, unmediated."),
    "crash": ("Crash VM", "Kill the hypervisor process; its file descriptors close."),
    "spawn": ("Start process", "Start a program in the VM, or on the host itself."),
    "bind": ("Bind", "Open the device: its PASID entry will point to the process's page table."),
    "unbind": ("Unbind", "Close the device; the last unbind gives the PASID back."),
    "free-early": ("Free early", "Let the guest give its PASID back although it is bound: who holds it lets go later."),
    "copy": ("Copy", "Let the device copy the text between two buffers of the process, and wait for it."),
    "submit": ("Submit only", "Submit the copy and do not wait: the work stays in the queue of the device."),
    "kill": ("Kill process", "End the process; what it was bound to is unbound."),
    "mistake": ("Try it", "Make the call that is described here."),
    "probe": ("Probe", "Ask the IOMMU what would happen to this request; nothing changes."),
    "probe-memory": ("Open in memory", "Show the frame in which this structure lies."),
    "memory-open": ("Open", "Show the 4 KiB frame around this address."),
    "run-step": ("Run next", "Let the device carry out the next piece of the work that is chosen on the left."),
    "hold": ("Hold traps", "From now on each trap of a guest waits until you have decided it."),
    "serve": ("Serve", "Do what the guest asks for, as a hypervisor does."),
    "refuse": ("Refuse", "Do not do it. The guest is told so, if the interface has an answer for that."),
    "alter": ("Alter", "Do it with the number of the field instead."),
    "forget": ("Give up", "Let the call that waits not have happened."),
    "script": ("Show as script", "All lines so far as one Python script, to copy."),
    "new-machine": (
        "New machine",
        "Leave this machine, and start with a fresh one: with this IOMMU; its administrator limits PASIDs by this "
        "policy, its hypervisors ask for them through this interface.",
    ),
}

LABELS: Final = {"set-quota": "Set quota of {vm}", "new-machine": "Really?", "hold": "Let traps pass"}
"""What stands on a button while it means something more particular."""

QUOTA: Final[dict[str, tuple[str, str]]] = {
    # policy: (what the quota of a new VM is, what the chosen VM may have)
    "fixed": (
        "As many PASIDs as the quota are set aside for a VM.",
        "{vm} uses {used} of {quota} PASIDs set aside for it.",
    ),
    "rlimit": (
        "The quota is the limit of a VM's process. Nothing is set aside.",
        "{vm} uses {used} of {quota} PASIDs, the limit of its process.",
    ),
    "cgroup": (
        "The quota is the max of the VM's own control group.",
        "{vm} is in group {group}: {used} of {quota} PASIDs used.",
    ),
    "root": ("", "{vm} is in the root of all groups, which has no limit."),
}

WHY: Final = {
    "no-device": "Plug in an accelerator first.",
    "no-vm": "Create a VM first.",
    "no-process": "Start a process first.",
    "nothing-to-open": "This VM has no device: assign an ADI or a PF to it first.",
    "bound": "{process} is bound to {device} already.",
    "not-bound": "{process} is not bound to {device}: bind it first.",
    "host-process": "Only a guest gives PASIDs back by virtual command; {process} runs on the host.",
    "no-pasid": "{process} has no PASID: bind it first.",
    "freed": "{process} gave PASID {pasid} back already.",
    "own-numbers": "The host backs no number of this guest, so that it has nothing to give back: {reason}.",
    "no-adi": "-EOPNOTSUPP: {reason}.",
    "no-text": "Write the text that is to be copied.",
    "no-work": "No work is waiting. 'Submit only' leaves some.",
    "no-trap": "No trap waits. Hold traps, then let a guest bind.",
    "no-number": "This trap has no number that could be altered.",
    "newest": "This is the newest step.",
    "oldest": "This is the first step.",
}

TRAVEL: Final = {
    "start": "To the start",
    "back-over": "Back by one operation",
    "back": "Back by one step",
    "play": "Play the steps",
    "pause": "Stop playing",
    "forward": "Forward by one step",
    "forward-over": "Forward by one operation",
    "end": "To the newest step",
}

BANNER: Final = {
    "past": "You are in the past: step {now} of {last}.",
    "future": "Acting now starts a new future and drops the {count} later step{s}.",
    "half": "This is the middle of the newest call: acting now completes it first.",
    "trap": "A call waits at a trap.",
    "trap-more": "Decide it in the pane 'Hypervisor'; any other call comes before it.",
    "newest": "You are at the newest step: what you do now is added to the history.",
    "step": "step {now} of {last}",
    "slider": "Step in time",
}

CHART: Final = {
    "label": "Quotas, and occupancy of the 20-bit PASID space",
    "sets": "Quotas (dashed: free-pending)",
    "space-use": "all {total}: {promised} promised, {reserved} reserved",
    "first": "PASIDs 0 to 255, one by one",
    "space": "All 2^20 PASIDs, 64 in a cell",
    "owner": "owner",
}

ADMINISTRATORS: Final = {
    "allowed": "Who may have how many PASIDs on this machine: {policy}, through {api}",
    "refused": "Who was refused, and why: {asked}",
    "all-refused": "Who was refused, and why (click a question above to see its answers only)",
    "nobody": "Nobody was refused.",
}

EMPTY: Final = {
    "entry": "Click an entry of a device's {table} to see its bits, field by field.",
    "walk": "Choose a request above and press Probe.",
    "walk-title": "The way of a request",
    "stop": "No structure has been read yet.",
    "stop-title": "The structure at this stop",
    "word": "Click a word to see the structure that it belongs to.",
    "word-title": "The structure at this word",
    "flow": "Nothing has happened yet.",
    "lines": "No line has run yet.",
    "no-table": "Plug in an accelerator to see its PASID table.",
    "entry-title": "{entry}",
    "lines-title": "Every call, newest first",
    "choose": "none yet",
    "no-ioasid": "No IOASID is allocated yet: assign an ADI, or bind a process.",
    "not-out": "not allocated",
}

MESSAGES: Final[dict[str, tuple[str, str]]] = {
    "welcome": (
        "A machine with one accelerator is ready",
        "Create two VMs, assign an ADI to each, start a process in each and bind it. Then compare the PASIDs.",
    ),
    "adopted": ("This is your machine", "What you do here and what your cells do is one history."),
    "plug": ("{device} is plugged in", "The host drives it: {queues} work queues, requester ID {rid}."),
    "create-vm-fixed": (
        "{vm} is running",
        "Its hypervisor owns an ioasid_set of {quota} PASIDs. Next: assign a device to it.",
    ),
    "create-vm-rlimit": (
        "{vm} is running",
        "Its hypervisor may have up to {quota} PASIDs, of which none is set aside. Next: assign a device to it.",
    ),
    "create-vm-cgroup": (
        "{vm} is running",
        "Its hypervisor is in a control group of its own with a max of {quota} PASIDs. Next: assign a device to it.",
    ),
    "set-quota-fixed": (
        "{vm} may have {quota} of the PASIDs",
        "That many are set aside for it alone; it has {used}.",
    ),
    "set-quota-rlimit": (
        "{vm} may have {quota} of the PASIDs",
        "That is the soft and the hard limit of its hypervisor now, and no promise; it has {used}.",
    ),
    "set-quota-cgroup": (
        "Group {group} may have {quota} of the PASIDs",
        "That is its max now, shared by all VMs in it ({members}); they have {used}.",
    ),
    "set-quota-over": ("", "What is out already is not taken away: more is refused until enough is back."),
    "new-machine": (
        "A new machine: {policy}, PASIDs through {api}",
        "Its IOMMU: {iommu}. Nothing happened to the machine before: a variable of your cells, such as m, still means "
        "it. The new one is lab.machine.",
    ),
    "really": (
        "Leave this machine?",
        "Press 'Really?' to start with a new one. The lab then forgets the {count} call{s} made on this one.",
    ),
    "assign-adi": (
        "{device} belongs to {vm}",
        "A {queue} queue of {parent}, mediated by the host. Its default PASID {pasid} reaches the memory of {vm}.",
    ),
    "assign-pf": (
        "{device} belongs to {vm} as a whole",
        "Nobody mediates: the PASIDs that the guest programs go on the wire, so this guest sees the host's numbers.",
    ),
    "assign-pf-whole": (
        "{device} belongs to {vm} as a whole",
        "Nobody mediates. The guest owns its table of PASIDs: the host binds it whole, and is asked for no PASID.",
    ),
    "assign-pf-own": (
        "{device} belongs to {vm} as a whole",
        "Nobody mediates: the guest's own numbers go on the wire, and select the entries of this function's own table.",
    ),
    "crash": ("{vm} has crashed", "Its file descriptors were closed; what it held is back: {back}."),
    "spawn": ("{process} runs in {where}", "It has an address space and no PASID yet. Next: bind it to a device."),
    "bind-whole": (
        "{process} has PASID {pasid}",
        "Guest PASID {pasid} of {where} is an entry in the guest's own table, and no number of the host stands for it. "
        "The host was asked for none; it carried out invalidations.",
    ),
    "bind-guest": (
        "{process} in {where} is bound: guest PASID {pasid}, host PASID {host}",
        "The guest says {pasid}; on the bus and in the host's PASID table it is {host}.",
    ),
    "bind-own": (
        "{process} in {where} is bound: guest PASID {pasid}, host PASID {host}",
        "{device} has its entry under the guest's number {pasid}; its work carries {wire}.",
    ),
    "bind-unbacked": (
        "{process} in {where} believes that it is bound: guest PASID {pasid}",
        "The host has no PASID behind this number.",
    ),
    "bind-host": (
        "{process} is bound: PASID {pasid}",
        "The host's own PASID entry {pasid} points to the page table of the process.",
    ),
    "unbind": ("{process} is unbound from {device}", "{left}"),
    "unbind-guest": ("", "Its PASID {pasid} is back in the pool; KVM's entry and the host's PASID entry are gone."),
    "unbind-whole": (
        "",
        "The entry of PASID {pasid} in the guest's own table is gone. Of the host it took invalidations, no more.",
    ),
    "unbind-host": ("", "Its PASID {pasid} is back in the pool, and the PASID entry is gone."),
    "free-early": (
        "{process} gave guest PASID {guest} back before it unbound",
        "IOASID {host} is free-pending, still held by {holders}. Run the waiting work, and see who lets go.",
    ),
    "freed": ("{process} gave guest PASID {guest} back", "Nobody else held IOASID {host}: it is back in the pool."),
    "unbind-late": (
        "",
        "It had given PASID {pasid} back before; who still holds the number behind it lets go by itself.",
    ),
    "unbind-kept": ("", "It keeps PASID {pasid}: another device still uses it."),
    "copy": (
        "Copied {count} bytes",
        "The device read {source} and wrote {target}, two addresses of {process}. Read back from there: {content}.",
    ),
    "copy-fault": (
        "The copy stopped after {count} bytes",
        "The completion record says {status} at address {address}.",
    ),
    "no-page": (
        "",
        "The device asked the IOMMU for a translation first (ATS) and was told that there is none. It reports that by "
        "itself; no fault is recorded.",
    ),
    "copy-lost": ("The copy never finished", "No completion record was written: the descriptor was dropped."),
    "submit": (
        "The descriptor is in the queue",
        "Nothing has moved yet. Run the waiting work to let the device do it.",
    ),
    "kill": ("{process} has ended", "Everything that it was bound to is unbound."),
    "run": ("Carried out", "{count} piece{s} of waiting work, {left} left."),
    "check-ok": (
        "All {count} invariants hold",
        "{count_ids} out; every reference has a named holder (see 'Who holds what').",
    ),
    "check-broken": ("{count} invariant{s} broken", "{where}"),
    "refused": ("Refused: -{name}", "The answer: {reason}."),
    "refused-before": ("", "Before that the host refused{name}: {reason}."),
    "fault": ("DMA fault {code}: {label}", "{meaning}. The IOMMU recorded it."),
    "fault-logged": ("", "The kernel of {where} logged it."),
    "no-fault": ("The request went through", "It was answered by address {address}."),
    "hold": ("Traps wait for you", "Let a guest bind or unbind: its call stops at each trap until you decide it."),
    "release": ("Traps are served as they come", "Whatever waited has not happened."),
    "trapped": (
        "{vm} waits at a trap: {words}",
        "The pictures stand there; nothing behind it has happened. Decide it in the pane 'Hypervisor'.",
    ),
    "decided": ("{line} is done", "{told}"),
    "decided-next": ("The call goes on to its next trap: {words}", "{told}"),
    "forgotten": ("The call was given up", "It has not happened: {line}."),
    "future": ("", "{count} later step{s} dropped: this is a new future."),
    "not-refused": ("This was not refused", "The call returned {answer}."),
    "travel": ("Step {now} of {last}", "{who}: {what}."),
    "start": ("Step {now} of {last}", "The machine has just booted."),
    "probe": ("{title}", "This was a question, and changes nothing. The walk is shown in the pane 'Probe'."),
    "cell": ("Your cell changed the machine", "The pictures show its last operation."),
}

ERRNO: Final = {
    "EACCES": "Permission: the number exists, but it belongs to somebody else. This check is what keeps VMs apart.",
    "EAGAIN": "Not accepted, try again: the queue is full, or nobody translates the PASID. Software cannot tell which.",
    "EBUSY": "It is in use in a way that leaves no room for a second user.",
    "EEXIST": "It exists already; names must be unique.",
    "EFAULT": "A bad address, or an instruction that the CPU stopped.",
    "EINVAL": "The request itself makes no sense, whatever the state of the machine is.",
    "ENODEV": "There is no such device here.",
    "ENOENT": "No such number: nobody has allocated it, or it is dying and takes no new user.",
    "ENOMEM": "Memory is used up.",
    "ENOSPC": "A limit is reached: that of this VM, or too few of the 2^20 PASIDs are left.",
    "ENXIO": "The device refused the command.",
    "EPERM": "The policy of this VM does not allow it.",
    "ESRCH": "Whoever is meant does not run (any more).",
}

FAULT: Final = "The device got no data and memory is unchanged: a fault is how the IOMMU keeps a wrong DMA out."
