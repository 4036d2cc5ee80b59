"""Remove active content from students' notebooks: scripts, event handlers, script URLs, frames, forms.

HTML is cleaned by nh3. Markdown stays Markdown: each HTML tag in it is cleaned by itself or made plain text.
"""

import base64
import re
from typing import Any

import nh3
from nbformat import NotebookNode

from hw3utils.progress import printable

_TAG_NAMES = """a abbr b blockquote br caption center code col colgroup dd del details div dl dt em figcaption figure
font h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup
table tbody td tfoot th thead tr tt u ul var"""
_ATTRIBUTE_NAMES = "align valign alt title colspan rowspan width height open start color href src style"
_STYLE_NAMES = """text-align vertical-align color background-color font-weight font-style font-size width max-width
height border border-collapse padding margin white-space"""
_TAGS, _ATTRIBUTES = frozenset(_TAG_NAMES.split()), frozenset(_ATTRIBUTE_NAMES.split())
_STYLES = frozenset(_STYLE_NAMES.split())
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_TAG = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9]*)"
    r"((?:\s+[^\s\"'<>/=]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'=<>`]+))?)*)\s*/?>"
    r"|<(?=[A-Za-z/!?])"
)
_PICTURE_URL = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=\s]*|https?://[^\s\"'<>]*", re.I)
_LINK = re.compile(r"(?:https?://|mailto:|#)[^\"'<>]*", re.I)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def _script_url() -> re.Pattern[str]:
    """`javascript:` and `vbscript:`, also written with entities, backslashes, spaces and percent signs."""
    gap = r"(?:[\x00-\x20\\]|&Tab;|&NewLine;|&#0*(?:9|10|13);?|&#x0*[9ad];?|%0[9ad])*"

    def character(c: str) -> str:
        codes = {ord(c), ord(c.upper())}
        decimal, hexadecimal = "|".join(map(str, codes)), "|".join(f"{code:x}" for code in codes)
        return rf"(?:{c}|&#0*(?:{decimal});?|&#x0*(?:{hexadecimal});?|%(?:{hexadecimal})|&colon;{{{int(c == ':')}}})"

    words = "|".join(gap.join(map(character, word + ":")) for word in ("javascript", "vbscript"))
    return re.compile(words.replace("|&colon;{0}", ""), re.I)


_SCRIPT_URL = _script_url()


def clean_html(html: str, tags: frozenset[str] = _TAGS) -> str:
    """HTML with harmless tags, attributes and URLs only."""
    return nh3.clean(
        html,
        tags=set(tags),
        attributes={"*": set(_ATTRIBUTES)},
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=set(_STYLES),
        link_rel=None,
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    """The value of an attribute, None to remove it."""
    if name == "href":
        return value if _LINK.fullmatch(value.strip()) else None
    if name == "src":
        return value if _PICTURE_URL.fullmatch(value.strip()) else None
    return value


def clean_markdown(text: str) -> str:
    """Markdown whose HTML is harmless. A tag that is not allowed gets a space, "< script>", and is plain text.

    Formulas such as $a<b$ mean the same with that space.
    """
    return _SCRIPT_URL.sub("no-script :", _TAG.sub(_tag, _COMMENT.sub("", text)))


def _tag(found: re.Match[str]) -> str:
    """An allowed tag with its allowed attributes, or plain text."""
    closing, name, attributes = found[1], (found[2] or "").lower(), found[3]
    if name not in _TAGS:
        return f"< {found[0][1:]}"
    if closing:
        return f"</{name}>"
    # A tag such as <td> is only valid in its place: its attributes are cleaned in another's.
    cleaned = clean_html(f"<span{attributes}></span>", frozenset({"span"}))
    return f"<{name}{cleaned.removeprefix('<span').removesuffix('></span>')}>"


def clean_notebook(notebook: NotebookNode) -> None:
    """Clean texts, attachments and outputs of a notebook, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.get("outputs", []):
                _clean_output(output)
            continue
        cell.source = clean_markdown(cell.source)
        for kinds in cell.get("attachments", {}).values():
            for kind, data in list(kinds.items()):
                if (
                    not re.fullmatch(r"image/[\w.+-]+", kind)
                    or not isinstance(data, str)
                    or not _BASE64.fullmatch(data)
                ):
                    del kinds[kind]


def _clean_output(output: NotebookNode) -> None:
    if "data" not in output:
        return
    output.metadata = {}
    for kind, value in list(output.data.items()):
        cleaned = _clean_data(kind, value)
        del output.data[kind]
        if cleaned is None:
            output.data.setdefault("text/plain", f"(left out: {printable(kind)[:80]})")
        else:
            output.data.update(cleaned)


def _clean_data(kind: str, value: Any) -> dict[str, Any] | None:
    """The harmless form of one kind of an output's data; None if it has none."""
    if kind == "application/vnd.hw3utils.items+json" or kind == "text/plain":
        return {kind: value}
    if not isinstance(value, str):
        return None
    if kind == "text/html":
        return {kind: clean_html(value)}
    if kind in ("text/markdown", "text/latex"):
        return {kind: clean_markdown(value)}
    if kind == "image/svg+xml":
        # As a picture it can neither run scripts nor load anything.
        data = base64.b64encode(value.encode()).decode()
        return {"text/html": f'<img src="data:image/svg+xml;base64,{data}">'}
    return {kind: value} if kind in _PICTURES and _BASE64.fullmatch(value) else None
