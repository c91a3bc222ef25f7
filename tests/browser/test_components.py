"""The live views in a real JupyterLab and browser: they draw, follow, answer, survive a reload, say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.gallery import HOSTILE
from tests.browser.notebook import Notebook

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SETUP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import ipywidgets as w
from tests.browser.gallery import HOSTILE, bind_ladder, machine_map, pasid_table
from pasidlab_widgets import BokehView, ErrorLog, GraphView, LadderView, TableView, ThemeProbe
log, said = ErrorLog(), w.Label("-")
def button(text, action):
    made = w.Button(description=text)
    made.on_click(log.guard(lambda _: action()))
    return made
def say(text):
    said.value = text
"""
GRAPH = """
graph, step = GraphView(machine_map()), 0
def bind():
    global step
    step = (step + 1) % 3
    graph.show(machine_map(bound=step))
graph.on_trouble(log.add)
graph.on_pick(lambda key: (say(f"picked {key}"), setattr(graph, "selected", key)))
w.VBox([w.HBox([button("bind", bind), button("grow", lambda: graph.show(machine_map(3, 1, room=3))),
    button("shrink", lambda: graph.show(machine_map(2, 1))),
    button("hostile", lambda: graph.show(machine_map(names=(HOSTILE,)))),
    button("break", lambda: graph.publish(drawing={"svg": "<svg", "width": 1, "height": 1, "margin": 0}))]),
    said, log.widget, graph])
"""
PLACES = """() => Object.fromEntries([...document.querySelectorAll('.pl-graph g.node')].map(
  (g) => [g.dataset.key, g.getAttribute('transform')]))"""


def test_a_step_changes_states_and_moves_nothing(notebook: Notebook) -> None:
    """Same topology: classes and words change, every box stays, and little travels."""
    notebook.open_notebook(notebook.write("states.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    assert notebook.state("adi:1") == "off"
    before = notebook.page.evaluate(PLACES)
    notebook.received.clear()
    notebook.click("bind")
    notebook.wait_for_state("adi:1", "live")
    assert notebook.texts("adi:1") == ["ADI", "● bound", "adi1", "shared queue wq0"]
    assert "bound" in (notebook.node("adi:1").get_attribute("aria-label") or "")
    assert notebook.page.evaluate(PLACES) == before
    assert sum(notebook.received) < 10_000
    assert not notebook.complaints()


def test_a_new_topology_moves_from_place_to_place(notebook: Notebook) -> None:
    """What stays glides, what is new fades in, what goes fades out and is gone."""
    notebook.open_notebook(notebook.write("morph.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    start = notebook.page.evaluate(PLACES)
    notebook.page.evaluate("""() => {
      window.seen = new Set();
      const look = () => {
        window.seen.add(document.querySelector('.pl-graph g[data-key="adi:1"]').getAttribute('transform'));
        requestAnimationFrame(look);
      };
      look();
    }""")
    notebook.click("grow")
    notebook.node("app:3").wait_for()
    notebook.page.wait_for_timeout(600)
    end = notebook.page.evaluate(PLACES)
    if start["adi:1"] != end["adi:1"]:
        assert notebook.page.evaluate("() => window.seen.size") > 2
    notebook.click("shrink")
    notebook.node("app:3").wait_for(state="detached")
    notebook.page.wait_for_timeout(600)
    assert notebook.page.evaluate(PLACES) == start
    assert notebook.page.locator(".pl-graph g[opacity]").count() == 0
    assert not notebook.complaints()


def test_motion_can_be_switched_off(notebook: Notebook) -> None:
    """With prefers-reduced-motion a new drawing is there at once."""
    notebook.page.emulate_media(reduced_motion="reduce")
    notebook.open_notebook(notebook.write("calm.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    notebook.click("grow")
    notebook.node("app:3").wait_for()
    assert notebook.page.locator(".pl-graph g[opacity]").count() == 0
    assert not notebook.complaints()


def test_mouse_and_keyboard_reach_python_and_not_the_notebook(notebook: Notebook) -> None:
    """A click and Enter pick; arrows walk; letters that JupyterLab would take ("b": a new cell) do nothing."""
    notebook.open_notebook(notebook.write("keys.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("dsa0").click()
    notebook.page.get_by_text("picked dsa0", exact=True).wait_for()
    notebook.page.wait_for_selector('g.node.is-selected[data-key="dsa0"][aria-pressed="true"]')
    cells = notebook.page.locator(".jp-Cell").count()
    notebook.node("app:1").focus()
    notebook.page.keyboard.press("b")
    notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("Enter")
    notebook.page.get_by_text("picked adi:1", exact=True).wait_for()
    assert notebook.page.locator(".jp-Cell").count() == cells
    assert notebook.page.locator('.pl-graph g.node[tabindex="0"]').count() == 1
    assert notebook.page.get_by_role("button", name="ADI: adi1, shared queue wq0, not bound").count() == 1
    assert not notebook.complaints()


def test_a_hostile_name_is_only_a_name(notebook: Notebook) -> None:
    """It is shown as it was typed, and no element comes of it."""
    notebook.page.on("dialog", lambda dialog: notebook.errors.append(dialog.message))
    notebook.open_notebook(notebook.write("hostile.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    notebook.click("hostile")
    notebook.page.locator(".pl-graph .caption text", has_text=HOSTILE).wait_for(state="attached")
    assert notebook.page.locator(".pl-graph script").count() == 0
    assert not notebook.complaints()


def test_a_drawing_that_cannot_be_shown_is_told(notebook: Notebook) -> None:
    """The page says so where the drawing should be, and Python's log of errors says it as well."""
    notebook.open_notebook(notebook.write("broken.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    notebook.click("break")
    notebook.page.locator(".pl-graph > .pl-error", has_text="the drawing is not SVG").wait_for()
    notebook.page.locator(".pl-errors", has_text="PageError: GraphView: the drawing is not SVG").wait_for()
    notebook.click("Dismiss")
    notebook.page.locator(".pl-errors").wait_for(state="hidden")


def test_a_reload_shows_the_present(notebook: Notebook) -> None:
    """Also a view opened later starts from the state of now, not from that of its creation."""
    notebook.open_notebook(notebook.write("reload.ipynb", [SETUP, GRAPH, "graph"]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    notebook.click("bind")
    notebook.wait_for_state("adi:1", "live", 0)
    notebook.wait_for_state("adi:1", "live", 1)
    notebook.reload()
    notebook.wait_for_state("adi:1", "live", 0)
    notebook.click("bind")
    notebook.wait_for_state("adi:2", "live", 0)
    notebook.wait_for_state("adi:2", "live", 1)
    assert notebook.page.evaluate("() => new Set([...document.querySelectorAll('.pl-graph [id]')]).size") == 0
    assert not notebook.complaints()


def test_the_theme_is_followed_without_python(notebook: Notebook) -> None:
    """Switching JupyterLab's theme recolours the drawing; nothing is sent."""
    notebook.open_notebook(notebook.write("theme.ipynb", [SETUP, GRAPH]))
    notebook.run_all()
    notebook.node("kvm").wait_for()
    fill = "() => getComputedStyle(document.querySelector('.pl-graph g.node .box')).fill"
    light = notebook.page.evaluate(fill)
    notebook.set_theme("dark")
    notebook.page.wait_for_timeout(500)
    dark = notebook.page.evaluate(fill)
    notebook.set_theme("light")
    notebook.page.wait_for_timeout(500)
    assert light != dark
    assert notebook.page.evaluate(fill) == light
    assert not notebook.complaints()


LADDER = """
ladder, at = LadderView(bind_ladder("1"), height="220px"), 1
def forth():
    global at
    at += 1
    ladder.show(bind_ladder(str(at)))
ladder.on_pick(lambda key: (say(f"picked {key}"), ladder.show(bind_ladder(key))))
w.VBox([button("forth", forth), button("last", lambda: ladder.show(bind_ladder("16"))),
    button("none", lambda: ladder.show(bind_ladder(rows=0))), said, log.widget, ladder])
"""


def test_the_ladder_keeps_the_present_in_sight(notebook: Notebook) -> None:
    """It scrolls inside its own box only; the heading stays; rows keep their element."""
    notebook.open_notebook(notebook.write("ladder.ipynb", [SETUP, LADDER]))
    notebook.run_all()
    row = notebook.page.locator(".pl-ladder g.row")
    notebook.page.wait_for_selector('.pl-ladder g.row.is-present[data-key="1"]')
    assert row.count() == 16
    row.nth(2).evaluate("(g) => { g.mine = true; }")
    top = notebook.page.locator(".jp-WindowedPanel-outer, .jp-Notebook").first.evaluate("(e) => e.scrollTop")
    notebook.click("forth")
    notebook.page.wait_for_selector('.pl-ladder g.row.is-present[data-key="2"]')
    assert row.nth(2).evaluate("(g) => g.mine && g.classList.contains('is-future')")
    notebook.click("last")
    notebook.page.wait_for_selector('.pl-ladder g.row.is-present[data-key="16"]')
    notebook.page.wait_for_timeout(800)
    box = notebook.page.locator(".pl-ladder .pl-scroll").bounding_box()
    last = row.last.bounding_box()
    head = notebook.page.locator(".pl-ladder .pl-head").bounding_box()
    assert box
    assert last
    assert head
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1
    assert abs(head["y"] - box["y"]) < 2
    assert notebook.page.locator(".jp-WindowedPanel-outer, .jp-Notebook").first.evaluate("(e) => e.scrollTop") == top
    notebook.page.keyboard.press("Tab")
    row.last.focus()
    notebook.page.keyboard.press("ArrowUp")
    notebook.page.keyboard.press("Enter")
    notebook.page.get_by_text("picked 15", exact=True).wait_for()
    notebook.click("none")
    notebook.page.get_by_text("nothing yet").wait_for()
    assert not notebook.complaints()


TABLE = """
table = TableView(pasid_table(2))
table.on_pick(lambda key: (say(f"picked {key}"), setattr(table, "selected", key)))
w.VBox([button("fault", lambda: table.show(pasid_table(3, True))), button("empty", lambda: table.show(pasid_table(0))),
    said, log.widget, table])
"""


def test_the_table_keeps_its_rows(notebook: Notebook) -> None:
    """Rows are recognised, changed cells are marked, a row can be picked, emptiness is said."""
    notebook.open_notebook(notebook.write("table.ipynb", [SETUP, TABLE]))
    notebook.run_all()
    first = notebook.page.locator('.pl-table tr[data-key="pasid:101"]')
    first.evaluate("(tr) => { tr.mine = true; }")
    notebook.click("fault")
    notebook.page.locator('.pl-table tr[data-key="pasid:103"]').wait_for()
    assert first.evaluate("(tr) => tr.mine && tr.classList.contains('s-fault')")
    assert first.locator("td.is-changed").all_text_contents() == ["▲ fault"]
    first.click()
    notebook.page.get_by_text("picked pasid:101", exact=True).wait_for()
    notebook.page.wait_for_selector('.pl-table tr[aria-selected="true"][data-key="pasid:101"]')
    notebook.click("empty")
    notebook.page.get_by_text("no entry is present").wait_for()
    assert not notebook.complaints()


BOKEH = """
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure
source = ColumnDataSource(dict(x=[2.0], y=[2.0]), name="source")
plot = figure(width=400, height=300, x_range=Range1d(0, 9), y_range=Range1d(0, 9), tools="tap")
plot.scatter("x", "y", source=source, size=40)
seen = []
plot.on_event(Tap, lambda event: seen.append(("tap", round(event.x), round(event.y))))
source.selected.on_change("indices", lambda _name, _old, new: seen.append(("selected", list(new))))
chart, count = BokehView(plot, label="occupancy"), 0
def add():
    global count
    count += 1
    with chart.batch():
        source.stream(dict(x=[2.0 + count], y=[2.0]))
        plot.title.text = f"{count} more"
    say(f"added {count}")
w.VBox([button("add", add), button("count", lambda: say(f"rows {len(source.data['x'])} {seen}")), said, log.widget,
chart])
"""
ROWS = "() => window.Bokeh?.documents.at(-1)?.get_model_by_name('source')?.data.x.length"
AT = """([x, y]) => {
  const walk = (v) => v.canvas_view ? v : (v.child_views ?? []).map(walk).find(Boolean);
  const view = [...Bokeh.index.roots].map(walk).filter(Boolean).at(-1), r = view.canvas_view.el.getBoundingClientRect();
  return [r.x + view.frame.x_scale.compute(x), r.y + view.frame.y_scale.compute(y)];
}"""


def test_a_chart_follows_answers_and_survives(notebook: Notebook) -> None:
    """Streams are not doubled, a tap reaches Python once, a reload shows the present, the file stays small."""
    file = notebook.write("chart.ipynb", [SETUP, BOKEH])
    notebook.open_notebook(file)
    notebook.run_all()
    notebook.page.wait_for_function(f"{ROWS} === 1")
    for count in range(1, 6):
        notebook.click("add")
        notebook.page.get_by_text(f"added {count}", exact=True).wait_for()
    notebook.page.wait_for_function(f"{ROWS} === 6")
    notebook.page.locator(".pl-bokeh").scroll_into_view_if_needed()
    notebook.page.mouse.click(*notebook.page.evaluate(AT, [2, 2]))
    notebook.page.wait_for_timeout(1200)  # Bokeh holds a tap back until it cannot become a double tap
    notebook.click("count")
    said = notebook.page.locator(".widget-label", has_text="rows 6")
    said.wait_for()
    assert "('tap', 2, 2)" in said.inner_text()
    assert said.inner_text().count("('selected', [0])") == 1
    notebook.reload()
    notebook.page.wait_for_function(f"{ROWS} === 6", timeout=60_000)
    notebook.click("add")
    notebook.page.wait_for_function(f"{ROWS} === 7")
    assert file.stat().st_size < 20_000
    assert not notebook.complaints()


PROBE = """
probe = ThemeProbe()
w.VBox([button("colours", lambda: say(f"{probe.dark} {probe.colours['paper']}")), said, log.widget, probe])
"""


def test_python_learns_the_colours_of_the_page(notebook: Notebook) -> None:
    """As #rrggbb, after each switch of the theme."""
    notebook.open_notebook(notebook.write("probe.ipynb", [SETUP, PROBE]))
    notebook.run_all()
    notebook.click("colours")
    notebook.page.get_by_text("False #ffffff").wait_for()
    notebook.set_theme("dark")
    notebook.click("colours")
    notebook.page.get_by_text("True #1").wait_for()
    notebook.set_theme("light")
    assert not notebook.complaints()


def test_without_dot_the_page_lays_out(notebook: Notebook) -> None:
    """Graphviz as WebAssembly, sent once for any number of graphs; the same boxes at the same size, twins in order."""
    away = "import os\nos.environ['PATH'] = '/nonexistent'\nimport shutil\nassert shutil.which('dot') is None"
    notebook.open_notebook(notebook.write("wasm.ipynb", [away, SETUP, GRAPH, "GraphView(machine_map(4, 2, room=4))"]))
    notebook.run_all()
    notebook.node("kvm", 0).wait_for()
    notebook.node("app:4", 1).wait_for()
    assert sum(size > 500_000 for size in notebook.received) == 1
    tops = [notebook.node(f"app:{at}", 1).bounding_box() for at in range(1, 5)]
    assert [box["y"] for box in tops if box] == sorted(box["y"] for box in tops if box)
    notebook.click("bind")
    notebook.wait_for_state("adi:1", "live")
    notebook.click("grow")
    notebook.node("app:3", 0).wait_for()
    assert not notebook.complaints()
