"""Graphviz places what it is given, whatever the names are."""

import itertools
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from math import isclose

import pytest
from hypothesis import given, settings

from pasidlab.views import Cluster, Edge, Figure, GraphvizError, Node, dot, layout, svg, topology
from pasidlab.views.layout import geometry, read
from tests.views.hostile import figures

NS = "{http://www.w3.org/2000/svg}"


def run_dot(text: str, form: str) -> str:
    """The ``dot`` program's answer; a message on its error output is a failure."""
    program = shutil.which("dot")
    assert program, "dot is not installed: apt-get install graphviz"
    command = [program, f"-T{form}", "-Gsplines=line"]  # what is read back matters here, not how arrows bend
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@settings(max_examples=60, deadline=None)
@given(figures())
def test_the_dot_text_is_the_figure(figure: Figure) -> None:
    """Graphviz reads back exactly the boxes, arrows and frames that were written, none more; tokens are words."""
    answer = json.loads(run_dot(dot(figure), "json0"))
    assert len([item for item in answer.get("objects", []) if "pos" in item]) == sum(
        not node.inside for node in figure.nodes
    )
    assert len(answer.get("edges", [])) == len(figure.edges)


@settings(max_examples=60, deadline=None)
@given(figures())
def test_a_picture_is_well_formed_and_holds_no_foreign_element(figure: Figure) -> None:
    """A hostile name makes no element and no attribute; each box is one group."""
    picture = ET.fromstring(svg(figure))
    tags = {element.tag.removeprefix(NS) for element in picture.iter()}
    assert tags <= {"svg", "style", "rect", "g", "path", "text", "title"}
    assert not [name for element in picture.iter() for name in element.attrib if name.startswith("on") or name == "id"]
    boxes = [g for g in picture.iter(f"{NS}g") if (g.get("class") or "").startswith("node")]
    assert len(boxes) == len(figure.nodes)


@settings(max_examples=40, deadline=None)
@given(figures())
def test_boxes_keep_their_size_and_do_not_overlap(figure: Figure) -> None:
    """What was measured is what is placed."""
    shape = topology(figure)
    found = geometry(shape)
    for node in shape.nodes:
        rect = found.nodes[node.key]
        assert isclose(rect.width, node.width, abs_tol=0.2)
        assert isclose(rect.height, node.height, abs_tol=0.2)
    boxes = [found.nodes[node.key] for node in shape.nodes if not node.inside]
    for one, other in itertools.combinations(boxes, 2):
        apart = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert apart or one.y + one.height <= other.y or other.y + other.height <= one.y


def test_the_same_figure_is_the_same_picture() -> None:
    """Byte for byte, also when the layout is made anew."""
    figure = Figure("f", "F", (Node("a", ("A",)), Node("b", ("B",))), (Edge("e", "a", "b", label="x", columns=3),))
    first = svg(figure)
    layout.answered.cache_clear()
    assert svg(figure) == first


def test_a_layout_is_made_once_for_each_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    """States and words cost no run of Graphviz."""
    runs: list[str] = []
    real = layout._run_dot

    def counted(text: str) -> str:
        runs.append(text)
        return real(text)

    monkeypatch.setattr(layout, "_run_dot", counted)
    layout.answered.cache_clear()
    for state, word in (("idle", "one"), ("live", "two"), ("fault", "three")):
        svg(Figure("f", "F", (Node("a", (word,), state=state),)))
    assert len(runs) == 1
    svg(Figure("f", "F", (Node("a", ("one", "a second line")),)))
    assert len(runs) == 2


def guests(count: int) -> Figure:
    """A machine of VMs that differ only in their names."""
    nodes = [Node("kvm", ("KVM",), cluster="host"), Node("dev", ("dsa0",), cluster="hardware")]
    edges = [Edge("k", "kvm", "dev")]
    for at in range(1, count + 1):
        nodes += [Node(f"app{at}", ("app",), cluster=f"vm{at}"), Node(f"adi{at}", ("adi",), cluster=f"vm{at}")]
        edges += [
            Edge(f"b{at}", f"app{at}", f"adi{at}"),
            Edge(f"d{at}", f"adi{at}", "dev"),
            Edge(f"s{at}", f"app{at}", "kvm"),
        ]
    frames = [Cluster("host", "host"), Cluster("hardware", "hardware")]
    frames += [Cluster(f"vm{at}", f"vm{at}") for at in range(1, count + 1)]
    return Figure("guests", "Guests", tuple(nodes), tuple(edges), tuple(frames))


@pytest.mark.parametrize("count", range(2, 10))
def test_twins_stand_in_declared_order(count: int) -> None:
    """vm1 above vm2 above vm3, however Graphviz had arranged them; frames still hold their boxes, arrows their ends."""
    found = geometry(topology(guests(count)))
    tops = [found.frames[f"vm{at}"].y for at in range(1, count + 1)]
    assert tops == sorted(tops)
    for at in range(1, count + 1):
        frame, app, adi = found.frames[f"vm{at}"], found.nodes[f"app{at}"], found.nodes[f"adi{at}"]
        assert frame.y < app.y < frame.y + frame.height
        start, tip = found.edges[f"b{at}"].points[0], found.edges[f"b{at}"].tip
        assert tip
        assert app.y - 1 <= start[1] <= app.y + app.height + 1
        assert adi.y - 1 <= tip[1] <= adi.y + adi.height + 1


def test_without_graphviz_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error for pictures; in a notebook the text twin is shown instead."""
    figure = Figure("f", "F", (Node("unheard of", ("A",)),))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(GraphvizError, match="apt-get install graphviz"):
        svg(figure)
    assert set(figure._repr_mimebundle_()) == {"text/plain"}


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"bb": 5}', '{"bb": "0,0,1,1", "objects": 3}'])
def test_an_answer_that_is_no_layout_is_refused(answer: str) -> None:
    """Whatever a page sends as a layout is checked."""
    with pytest.raises(GraphvizError):
        read(answer)
