"""The Jupyter face of pasidlab: live views of figures, ladders, tables and Bokeh charts. No domain logic: it shows
what it is given.
"""

from pasidlab_widgets.bokeh_view import BokehView
from pasidlab_widgets.errors import ErrorLog
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import Lab
from pasidlab_widgets.ladder import LadderView
from pasidlab_widgets.picture import PictureView
from pasidlab_widgets.table import TableView
from pasidlab_widgets.theme_probe import ThemeProbe
from pasidlab_widgets.view import PageError, View

__all__ = [
    "BokehView",
    "ErrorLog",
    "GraphView",
    "Lab",
    "LadderView",
    "PageError",
    "PictureView",
    "TableView",
    "ThemeProbe",
    "View",
]
