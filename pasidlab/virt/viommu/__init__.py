"""The IOMMUs that guests see: emulated units, whose registers trap to the hypervisor."""
