"""Pages that are whole: HTML of notebooks that draws its formulas by itself and asks no host for anything."""

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

# What a page may load: nothing but what is in it. It holds whatever the output of a cell says.
POLICY = "default-src 'none'; img-src data:; media-src data:; font-src data:; style-src 'unsafe-inline'"
# What a page shows of an output, the first of these that it has.
KINDS = ("text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain")
# Fonts that can draw a brace of any size; Windows, macOS and most of Linux have one of them.
_STYLE = """
math { font-family: "STIX Two Math", "Cambria Math", "TeX Gyre Termes Math", "Libertinus Math", "DejaVu Math TeX Gyre",
  "Latin Modern Math", math; font-size: 1.1em; }
.hw3-formula { display: flex; align-items: center; margin: 0.6em 0; break-inside: avoid; }
.hw3-drawn { flex: 1; overflow-x: auto; overflow-y: hidden; padding: 0.2em 0; }
.hw3-number { padding-left: 1em; margin-left: auto; }
.hw3-overline { border-top: 0.06em solid; padding-top: 0.12em; }
.anchor-link { display: none; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
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
    """Markdown with its formulas as MathML. Code, in spans and in blocks, never comes by here."""

    def block_math(self, body: str) -> str:
        """A formula in a line of its own."""
        return formula(body, display=True)

    def inline_math(self, body: str) -> str:
        """A formula in a line of text, unless its dollars are money: from $5 to $6."""
        if body[:1].isdigit() and body[-1:].isspace():
            return f"${escape(body)}$"
        return formula(body)

    def latex_environment(self, name: str, body: str) -> str:
        """An environment that stands in the text without dollars."""
        return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

    def block_html(self, html: str) -> str:
        """HTML that stands in the text, a folded answer for one: Markdown takes it as it is, its formulas too."""
        parts, code = _HTML_TAG.split(super().block_html(html)), 0
        for n, part in enumerate(parts):
            if n % 2:
                code += len(re.findall(r"<(?:code|pre)\b", part)) - len(re.findall(r"</(?:code|pre)\b", part))
            elif not code:
                parts[n] = _MATH.sub(self._math, part)
        return "".join(parts)

    def _html_embed_images(self, html: str) -> str:
        """Pictures put into HTML, all else as it is: a fold begins in one block and ends in another."""
        put_in = super()._html_embed_images

        def one(found: re.Match[str]) -> str:
            try:
                return put_in(found[0])
            except OSError:
                return found[0]

        return _IMAGE.sub(one, html)

    def _embed_image_or_attachment(self, src: str) -> str:
        """A picture's address; what is no picture stays as it is."""
        try:
            return super()._embed_image_or_attachment(src)
        except Exception:  # an attachment or a file that is not there stops no page
            return src

    def _math(self, found: re.Match[str]) -> str:
        """One formula of an HTML text."""
        return self.inline_math(unescape(found[2])) if found[1] is None else self.block_math(unescape(found[1]))


class Page(HTMLExporter):
    """nbconvert's HTML of a notebook, whole: for `hw3 run`, and for the feedback pages of `hw3 grade`."""

    @property
    def default_config(self) -> Config:
        """Outputs that need a script of another host are shown by what else they hold, their text at least."""
        config = super().default_config.copy()
        config.NbConvertBase.display_data_priority = list(KINDS)
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

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page of a notebook, and nbconvert's resources."""
        nb = copy.copy(nb)
        nb.metadata = {name: value for name, value in nb.metadata.items() if name != "widgets"}
        page, resources = super().from_notebook_node(nb, resources, **options)
        return whole(page), resources


def _outputs(nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
    """Outputs of a copy of a notebook: LaTeX as Markdown, which knows formulas; a script by its name alone."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/latex" in data and "text/html" not in data:
                data["text/markdown"] = data.pop("text/latex")
            if data and not data.keys() & set(KINDS):
                data["text/plain"] = f"(not in this page: {', '.join(data)})"
    return nb, resources


def whole(page: str) -> str:
    """A page without its scripts and without what it would fetch; the browser is told to fetch nothing as well."""
    soup = BeautifulSoup(page, features="html.parser")
    for tag in soup.select("script, noscript, base, link, iframe, frame, object, embed, meta[http-equiv]"):
        tag.decompose()
    for tag in soup.select("[src], [srcset], [poster]"):
        _keep_what_is_inside(tag)
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


def _keep_what_is_inside(tag: Tag) -> None:
    """Take the addresses of other files off a picture or film, and name what is not shown."""
    for name in ("src", "srcset", "poster"):
        address = tag.attrs.get(name)
        if address is not None and not str(address).strip().lower().startswith("data:"):
            del tag.attrs[name]
            tag.attrs["alt"] = f"{tag.attrs.get('alt') or 'picture'} (not in this page: {str(address)[:200]})"
