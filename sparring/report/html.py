"""HTML that cannot be forgotten to be escaped: text is escaped unless it was made here.

`el` builds an element from its name, its attributes and what is inside. Everything inside that is not
itself `Html` is text, so a response such as "<script>" is shown and never run.
"""

from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files

VOID = frozenset(("meta", "input"))
# The page may run its own style and script and fetch nothing at all.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Markup that is safe to put into a page as it is."""


Inside = str | Html | Iterable["str | Html"]
Attributes = Mapping[str, str | int | float]


def el(name: str, attributes: Attributes | None = None, inside: Inside = "") -> Html:
    """Make one element; an attribute with an empty value stands alone, as in `hidden`."""
    written = "".join(
        f" {key}" if value == "" else f' {key}="{escape(str(value))}"' for key, value in (attributes or {}).items()
    )
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{join(inside)}</{name}>")


def join(inside: Inside) -> Html:
    """Put pieces one after the other, escaping those that are text."""
    pieces = [inside] if isinstance(inside, str) else inside
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in pieces))


def page(title: str, body: Inside) -> str:
    """Write a whole document that needs nothing else: style and script are inside it."""
    here = files("sparring.report")
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    head = [
        el("meta", {"charset": "utf-8"}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        el("title", None, title),
        el("style", None, Html(style)),
    ]
    content = [el("main", None, body), el("script", None, Html(script))]
    whole = el("html", {"lang": "en"}, [el("head", None, head), el("body", None, content)])
    return f"<!doctype html>\n{whole}\n"
