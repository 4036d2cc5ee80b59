"""Self-contained HTML of notebooks: formulas as MathML, nothing is loaded from elsewhere, no scripts."""

import copy
import re
from html import escape, unescape
from typing import Any

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from traitlets.config import Config

from hw3utils.course.notebooks.mathml import formula

# A page may load only what is in it, whatever an output contains.
POLICY = "default-src 'none'; img-src data:; media-src data:; font-src data:; style-src 'unsafe-inline'"
# The MIME types of an output by priority.
MIME_TYPES = ("text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain")
# Fonts with braces of any size; Windows, macOS and most of Linux have one of them.
_STYLE = """
math { font-family: "STIX Two Math", "Cambria Math", "TeX Gyre Termes Math", "Libertinus Math", "DejaVu Math TeX Gyre",
  "Latin Modern Math", math; font-size: 1.1em; }
.hw3-formula { display: flex; align-items: center; margin: 0.6em 0; break-inside: avoid; }
.hw3-drawn { flex: 1; overflow-x: auto; overflow-y: hidden; padding: 0.2em 0; }
.hw3-number { padding-left: 1em; margin-left: auto; }
.hw3-overline { border-top: 0.06em solid; padding-top: 0.12em; }
.anchor-link { display: none; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; word-break: normal !important; }
h1, h2, h3 { line-height: 1.3 !important; }
@media print {
  math { font-size: 1em; }
  .hw3-drawn math { font-size: 0.85em; }
  .hw3-formula { flex-wrap: wrap; }
  .hw3-drawn { flex: 1 0 auto; overflow: visible; }
}
"""
_HTML_TAG = re.compile(r"(<[^>]*>)")
_IMAGE = re.compile(r"(?i)<img\b[^>]*>")
_MATH = re.compile(r"(?s)(?<!\\)\$\$(.+?)\$\$|(?<![\\$])\$([^$]+)\$")
_FONT = re.compile(r"@font-face\s*\{[^}]*\}")


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML; not called for code."""

    def block_math(self, body: str) -> str:
        """A displayed formula."""
        return formula(body, display=True)

    def inline_math(self, body: str) -> str:
        """An inline formula, unless the dollars are money: from $5 to $6."""
        if body[:1].isdigit() and body[-1:].isspace():
            return f"${escape(body)}$"
        return formula(body)

    def latex_environment(self, name: str, body: str) -> str:
        """An environment without dollars."""
        return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

    def block_html(self, html: str) -> str:
        """HTML in the text, such as a folded answer: only its formulas are converted."""
        parts, code_depth = _HTML_TAG.split(super().block_html(html)), 0
        for n, part in enumerate(parts):
            if n % 2:
                code_depth += len(re.findall(r"<(?:code|pre)\b", part)) - len(re.findall(r"</(?:code|pre)\b", part))
            elif not code_depth:
                parts[n] = _MATH.sub(self._math, part)
        return "".join(parts)

    def _html_embed_images(self, html: str) -> str:
        """Embed the pictures of HTML. The base class closes open tags, but a fold may end in a later block."""
        embed = super()._html_embed_images

        def replace(found: re.Match[str]) -> str:
            try:
                return embed(found[0])
            except OSError:
                return found[0]

        return _IMAGE.sub(replace, html)

    def _embed_image_or_attachment(self, src: str) -> str:
        """A picture as a data URL; a missing one keeps its address."""
        try:
            return super()._embed_image_or_attachment(src)
        except Exception:  # a missing attachment or file must not stop a page
            return src

    def _math(self, found: re.Match[str]) -> str:
        """One formula in HTML."""
        return self.inline_math(unescape(found[2])) if found[1] is None else self.block_math(unescape(found[1]))


class Page(HTMLExporter):
    """nbconvert's HTML of a notebook, self-contained: for `hw3 run`, and for the feedback pages of `hw3 grade`."""

    @property
    def default_config(self) -> Config:
        """Outputs that need a script are shown by another of their MIME types, at least as text."""
        config = super().default_config.copy()
        config.NbConvertBase.display_data_priority = list(MIME_TYPES)
        return config

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown as HTML, formulas as MathML."""
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
        )
        return MarkdownWithMath(renderer=renderer).render(source)

    def _init_preprocessors(self) -> None:
        super()._init_preprocessors()
        self.register_preprocessor(_outputs, enabled=True)

    def from_notebook_node(  # type: ignore[override]  # as in nbconvert: its base class returns a notebook
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page of a notebook, and nbconvert's resources."""
        nb = copy.copy(nb)
        nb.metadata = {name: value for name, value in nb.metadata.items() if name != "widgets"}
        page, resources = super().from_notebook_node(nb, resources, **options)
        return self_contained(page), resources


def _outputs(nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
    """Convert LaTeX outputs to Markdown, which has formulas; name outputs that cannot be shown."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/latex" in data and "text/html" not in data:
                data["text/markdown"] = data.pop("text/latex")
            if data and not data.keys() & set(MIME_TYPES):
                data["text/plain"] = f"(not in this page: {', '.join(data)})"
    return nb, resources


def self_contained(page: str) -> str:
    """A page without scripts, event handlers and anything that it would load; the browser is told so, too."""
    soup = BeautifulSoup(page, features="html.parser")
    for tag in soup.select("script, noscript, base, link, iframe, frame, object, embed, meta[http-equiv]"):
        tag.decompose()
    for tag in soup.select("[src], [srcset], [poster]"):
        _remove_addresses(tag)
    for tag in soup.find_all(True):
        scripts = [name for name, value in tag.attrs.items() if name.startswith("on") or _is_script_url(value)]
        for name in scripts:
            del tag.attrs[name]
    for style in soup.select("style"):
        style.string = _FONT.sub(lambda font: font[0] if "url(data:" in font[0] else "", style.get_text())
    head = soup.head
    if head is None:
        head = soup.new_tag("head")
        soup.insert(0, head)
    head.insert(0, soup.new_tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": POLICY}))
    style = soup.new_tag("style")
    style.string = _STYLE
    head.append(style)
    return str(soup)


def _is_script_url(value: object) -> bool:
    return isinstance(value, str) and bool(
        re.match(r"(?i)[\x00-\x20]*(?:java|vb)script:", re.sub(r"[\t\n\r]", "", value))
    )


def _remove_addresses(tag: Tag) -> None:
    """Remove the addresses of other files from a picture or film, and name them."""
    for name in ("src", "srcset", "poster"):
        address = tag.attrs.get(name)
        if address is not None and not str(address).strip().lower().startswith("data:"):
            del tag.attrs[name]
            tag.attrs["alt"] = f"{tag.attrs.get('alt') or 'picture'} (not in this page: {str(address)[:200]})"
