"""Intel VT-d in scalable mode: registers -> tables -> walk -> faults, and the invalidation queue.

``unit`` is the silicon; ``registers`` is what silicon and a hypervisor's emulated unit share; ``identity`` says what a
unit can do, ``rules`` what that means for reserved bits, ``tables`` finds the PASID entry, ``walk`` the page.
"""
