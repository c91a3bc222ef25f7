"""The driver of VT-d units: tables, domains, bindings, invalidations, faults, virtual commands."""
