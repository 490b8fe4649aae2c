"""The first lines of a plot in SVG: what it shows, and its colours on a light and on a dark page."""

from __future__ import annotations

_DARK = {
    "#ffffff": "#161b22",
    "#e4e4e4": "#30363d",
    "#333333": "#c9d1d9",
    "#bbbbbb": "#8b949e",
    "#00798c": "#39b6c9",
    "#d1495b": "#ff7b8a",
}


def head(width: float, height: float, title: str, description: str) -> list[str]:
    """Return the lines before the drawing. Its colours have to be those that are known here."""
    rules = [f'[{kind}="{light}"]{{{kind}:{dark}}}' for light, dark in _DARK.items() for kind in ("fill", "stroke")]
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        ' font-size="12" fill="#222222" role="img" aria-labelledby="t d">',
        f'<title id="t">{title}</title>',
        f'<desc id="d">{description}</desc>',
        "<style>@media (prefers-color-scheme:dark){svg{fill:#e6edf3}" + "".join(rules) + "}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
