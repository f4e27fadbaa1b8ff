"""Reports as single HTML files: a page with sections, tables, images and SVG charts.

| module | content |
|---|---|
| `page` | `Page`, which collects sections and writes the file |
| `charts` | all charts: `bars`, `points` (lines, scatter charts) and `heat` (heat maps) as SVG |
| `axes` | scales with round ticks, and the frame, axes and legend of a chart |
| `thumbnails` | images as JPEG data URIs |
| `template.html` | the page's markup and styles |
"""
