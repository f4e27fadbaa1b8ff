"""Charts as SVG text, styled by template.html (light and dark) and legible on a phone.

Values that are not finite are left out. Every chart has the class `chart` and the number of values that it
shows in `data-points`. Texts may contain any characters.
"""

from engine.html.bars import bar_chart, histogram
from engine.html.heat import heat_map
from engine.html.points import Point, line_chart, scatter_chart

__all__ = ["Point", "bar_chart", "heat_map", "histogram", "line_chart", "scatter_chart"]
