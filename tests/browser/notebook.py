"""A notebook in JupyterLab in a browser, as a person uses it: open, run all, click, look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nbformat
from playwright.sync_api import ConsoleMessage, Locator, Page, Route, WebSocket

from tests.browser.server import Server

_LOCAL = ("http://127.0.0.1:", "data:", "blob:")
_READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
_RAN = """() => {
  const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
  return kernel?.status === 'idle' && panel.content.widgets.every(
    (cell) => cell.model.type !== 'code' || !cell.model.sharedModel.getSource().trim() || cell.model.executionCount);
}"""
_HARMLESS = (
    # JupyterLab itself, with every notebook and without any of ours
    "the server responded with a status of 404",
    "Failed to load resource",
)


class Notebook:
    """One page of the browser. What it asks of the network, and what goes wrong in it, is recorded."""

    def __init__(self, page: Page, server: Server, pictures: Path) -> None:
        self.page = page
        self.server = server
        self.pictures = pictures
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.received: list[int] = []
        page.route("**/*", self._gate)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("websocket", self._websocket)

    def _gate(self, route: Route) -> None:
        if route.request.url.startswith(_LOCAL):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(word in message.text for word in _HARMLESS):
            self.errors.append(message.text)

    def _websocket(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: self.received.append(len(frame)))

    # what a person does

    def write(self, name: str, cells: Sequence[str]) -> Path:
        """Put a notebook of these code cells into the server's folder."""
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},  # else JupyterLab asks and waits
        )
        path = self.server.folder / name
        nbformat.write(book, path)
        return path

    def open_notebook(self, path: str | Path) -> None:
        """Open a notebook of the server's folder, or one from elsewhere by copying it there; wait for its kernel."""
        file = Path(path)
        if file.is_absolute() and file.parent != self.server.folder:
            (self.server.folder / file.name).write_bytes(file.read_bytes())
        self.page.goto(f"{self.server.url}/lab/tree/{file.name}?reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook", timeout=60_000)
        self.page.wait_for_function(_READY, timeout=60_000)

    def run_all(self, timeout: float = 60_000) -> None:
        """Run all cells and wait until the last one is done."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_function(_RAN, timeout=timeout)

    def command(self, name: str, **arguments: str) -> None:
        """Run one of JupyterLab's commands."""
        self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def click(self, button: str) -> None:
        """Press the widget button with this text."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def reload(self) -> None:
        """Save, reload the page, and wait for the notebook."""
        self.command("docmanager:save")
        self.page.wait_for_timeout(500)
        self.page.reload()
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook", timeout=60_000)
        self.page.wait_for_function(_READY, timeout=60_000)

    def set_theme(self, mode: Literal["light", "dark"]) -> None:
        """Switch JupyterLab's theme, and wait until it is there."""
        self.command("apputils:change-theme", theme=f"JupyterLab {mode.title()}")
        self.page.wait_for_function(
            "(light) => document.body.dataset.jpThemeLight === light", arg="true" if mode == "light" else "false"
        )
        self.page.wait_for_timeout(600)

    def close(self) -> None:
        """Stop the kernels and close the page."""
        self.page.evaluate("async () => { await window.jupyterapp?.serviceManager.sessions.shutdownAll(); }")
        self.page.close(run_before_unload=False)

    # what a person sees

    def graph(self, at: int = 0) -> Locator:
        """The graph that is the ``at``-th on the page."""
        return self.page.locator(".pl-graph").nth(at)

    def node(self, key: str, at: int = 0) -> Locator:
        """A box of a graph, by its address."""
        return self.graph(at).locator(f'g.node[data-key="{key}"]')

    def state(self, key: str, at: int = 0) -> str:
        """The state of a box (``"live"``), or ``"absent"``."""
        classes = (self.node(key, at).get_attribute("class") or "").split()
        return "absent" if "s-absent" in classes else next(c.removeprefix("s-") for c in classes if c.startswith("s-"))

    def texts(self, key: str, at: int = 0) -> list[str]:
        """What stands in a box, without its empty lines."""
        return [text for text in self.node(key, at).locator("text").all_text_contents() if text]

    def wait_for_state(self, key: str, state: str, at: int = 0) -> None:
        """Wait until a box has this state."""
        self.graph(at).locator(f'g.node.s-{state}[data-key="{key}"]').wait_for(state="attached")

    def screenshot(self, name: str, width: int = 1280, height: int = 900, of: str | None = None) -> Path:
        """A picture of the page, or of the first element that the selector ``of`` finds, at this width."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(700)
        path = self.pictures / f"{name}-{width}.png"
        (self.page.locator(of).first if of else self.page).screenshot(path=str(path))
        return path

    def complaints(self) -> list[str]:
        """Whatever must not be: requests that leave the machine, errors in the console, error boxes, stderr."""
        shown = self.page.locator(".pl-error, .jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']")
        return [*self.outside, *self.errors, *shown.all_text_contents()]
