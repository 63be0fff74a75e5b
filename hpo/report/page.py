"""The page itself: one HTML file that needs nothing else, neither a network nor a server."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from datetime import datetime

from hpo.report.drawing import Drawing
from hpo.report.sections import Section
from hpo.report.tables import Table

_CSS = """
:root { color: #1f2933; background: #ffffff; font: 16px/1.55 system-ui, sans-serif; }
body { max-width: 1160px; margin: 0 auto; padding: 24px 20px 64px; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.3rem; margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid #d9dee4; }
h3 { font-size: 1.05rem; margin: 24px 0 4px; }
p { margin: 8px 0; max-width: 75ch; }
.faint, figcaption { color: #52606d; font-size: 0.9rem; }
dl { margin: 20px 0; padding: 16px 20px; background: #f5f7fa; border-radius: 8px;
  display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 8px 20px; }
dt { font-weight: 600; max-width: 20em; }
dd { margin: 0; max-width: 75ch; }
.figures { display: grid; gap: 24px; grid-template-columns: 1fr; }
.figures.several { grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
figure { margin: 12px 0 0; min-width: 0; }
figcaption { margin-top: 4px; max-width: 75ch; }
.plot { width: 100%; }
.table { overflow-x: auto; margin: 12px 0; border: 1px solid #d9dee4; border-radius: 8px; }
table { border-collapse: collapse; min-width: 100%; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 7px 12px; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e8ecf0; }
thead th { background: #f5f7fa; }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.words, tbody th { min-width: 10em; max-width: 26em; font-weight: 400; }
td.long { min-width: 22em; max-width: 46em; }
@media (max-width: 640px) {
  body { padding: 16px 12px 48px; }
  dl { grid-template-columns: 1fr; gap: 2px; padding: 12px 14px; }
  dd { margin-bottom: 10px; }
  th, td { padding: 6px 8px; }
  td.words, tbody th { min-width: 8em; }
}
"""

_SCRIPT = """
for (const place of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(place.nextElementSibling.textContent);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false});
}
"""

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
"""What a browser lets the page do: nothing outside it."""


def render(
    title: str, conclusions: Sequence[tuple[str, str]], parts: Sequence[Section], now: datetime
) -> str:
    """Return the page.

    Args:
        title: The study's name.
        conclusions: The sentences of the summary, each with what it is about.
        parts: What follows.
        now: When it is written.
    """
    name = html.escape(title)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}: report</title>\n<style>{_CSS}</style>\n</head>\n<body>",
            f"<header><h1>{name}</h1>",
            f'<p class="faint">Report of a study of hpo, as of {now:%Y-%m-%d %H:%M} UTC.</p>',
            "</header>\n<main>\n<dl>",
            *(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in conclusions),
            "</dl>\n<noscript><p>The figures need JavaScript; they load nothing.</p></noscript>",
            *(_section(part) for part in parts),
            "</main>",
            *(_scripts() if any(part.drawings for part in parts) else ()),
            "</body>\n</html>\n",
        ]
    )


def _scripts() -> list[str]:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return [f"<script>{get_plotlyjs()}</script>", f"<script>{_SCRIPT}</script>"]


def _section(part: Section) -> str:
    several = " several" if len(part.drawings) > 1 else ""
    lines = [f"<section><h2>{html.escape(part.title)}</h2>"]
    lines += [f"<p>{html.escape(said)}</p>" for said in part.said]
    if part.drawings:
        lines.append(f'<div class="figures{several}">')
        lines += [
            _figure(each, headed=bool(several) or len(part.tables) > 0) for each in part.drawings
        ]
        lines.append("</div>")
    lines += [_table(each) for each in part.tables]
    return "\n".join([*lines, "</section>"])


def _figure(drawing: Drawing, headed: bool) -> str:
    title = html.escape(drawing.title)
    heading = f"<h3>{title}</h3>" if headed else ""
    height = drawing.figure["layout"]["height"]
    said = f"{drawing.basis} {drawing.caption}"
    return (
        f'<figure>{heading}<div class="plot" id="{drawing.name}" role="img" aria-label="{title}" '
        f'style="height: {height}px"></div>'
        f'<script type="application/json">{_json(drawing.figure)}</script>'
        f"<figcaption>{html.escape(said)}</figcaption></figure>"
    )


def _json(figure: object) -> str:
    """Return JSON that no HTML parser takes for the end of a script."""
    text = json.dumps(figure, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _table(table: Table) -> str:
    kinds = ["words" if place < table.words else "number" for place in range(len(table.head))]
    if table.words == len(table.head):
        kinds[-1] = "long"
    head = "".join(
        f'<th scope="col" class="{kind}">{html.escape(cell)}</th>'
        for kind, cell in zip(kinds, table.head, strict=True)
    )
    rows = []
    for row in table.rows:
        first, *rest = (html.escape(cell) for cell in row)
        cells = (
            # An interval goes below its value, or the table would be too wide to be seen at once.
            f'<td class="{kind}">{cell.replace(" (", "<br>(") if kind == "number" else cell}</td>'
            for kind, cell in zip(kinds[1:], rest, strict=True)
        )
        rows.append(f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>')
    return (
        f"<h3>{html.escape(table.title)}</h3><p>{html.escape(table.said)}</p>"
        f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
