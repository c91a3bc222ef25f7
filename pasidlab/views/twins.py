"""Frames that look alike stand in the order in which they were declared: vm1 above vm2 above vm3.

Graphviz decides by itself in which order frames stand; no option of it changes that (``ordering``, ``remincross``,
unseen arrows and ``newrank`` were tried with two to eight VMs). But the places of twins can be exchanged after the
layout without moving a line: frames are twins when they have the same size, equal boxes, and equal arrows to the same
other boxes. What differs among the VMs of a machine is only what their boxes say, so they are twins.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from pasidlab.views.geometry import Geometry
from pasidlab.views.topology import Topology

__all__ = ["in_order"]


class _Unit(NamedTuple):
    """A frame with all that is in it and all arrows that touch it, as keys in declared order."""

    frames: tuple[str, ...]
    nodes: tuple[str, ...]
    edges: tuple[str, ...]


def in_order(shape: Topology, found: Geometry) -> Geometry:
    """``found`` with the places of twins exchanged so that twins stand in declared order."""
    families: dict[Hashable, list[_Unit]] = {}
    for frame in shape.frames:
        if frame.key in found.frames:
            unit = _unit(shape, found, frame.key)
            families.setdefault((frame.parent, _likeness(shape, found, unit)), []).append(unit)
    nodes, edges, frames = dict(found.nodes), dict(found.edges), dict(found.frames)
    for family in families.values():
        for unit, place in zip(family, sorted(family, key=lambda unit: _position(shape, found, unit)), strict=True):
            nodes |= {own: found.nodes[there] for own, there in zip(unit.nodes, place.nodes, strict=True)}
            edges |= {own: found.edges[there] for own, there in zip(unit.edges, place.edges, strict=True)}
            frames |= {own: found.frames[there] for own, there in zip(unit.frames, place.frames, strict=True)}
    return found._replace(nodes=nodes, edges=edges, frames=frames)


def _unit(shape: Topology, found: Geometry, key: str) -> _Unit:
    inside = [key]
    for frame in shape.frames:
        if frame.parent in inside and frame.key in found.frames:
            inside.append(frame.key)
    nodes = tuple(node.key for node in shape.nodes if node.cluster in inside)
    edges = tuple(edge.key for edge in shape.edges if edge.tail in nodes or edge.head in nodes)
    return _Unit(tuple(inside), nodes, edges)


def _likeness(shape: Topology, found: Geometry, unit: _Unit) -> Hashable:
    """Equal for twins: keys inside the frame are replaced by their place in it."""
    names = {key: str(at) for at, key in enumerate((*unit.frames, *unit.nodes))}
    size = found.frames[unit.frames[0]]
    nodes = [(names[node.cluster], node.width, node.height) for node in shape.nodes if node.key in unit.nodes]
    edges = [
        (names.get(edge.tail, f"out {edge.tail}"), names.get(edge.head, f"out {edge.head}"), *edge[3:])
        for edge in shape.edges
        if edge.key in unit.edges
    ]
    nested = [names[frame.parent] for frame in shape.frames if frame.key in unit.frames[1:]]
    return (round(size.width), round(size.height), tuple(nodes), tuple(edges), tuple(nested))


def _position(shape: Topology, found: Geometry, unit: _Unit) -> tuple[float, float]:
    at = found.frames[unit.frames[0]]
    return (at.y, at.x) if shape.direction == "LR" else (at.x, at.y)
