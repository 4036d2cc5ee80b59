"""Active content of students' notebooks is removed; formulas, pictures and tables stay."""

import base64

import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from hw3utils.course.notebooks.html import Page, self_contained
from hw3utils.course.notebooks.sanitize import clean_html, clean_markdown, clean_notebook
from hw3utils.progress import printable

SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='attack()'><script>attack()</script><rect width='9'/></svg>"
ATTACKS = [
    "<script>attack()</script>",
    "<scr<!-- -->ipt>attack()</scr<!-- -->ipt>",
    "<img src=x onerror=attack()>",
    '<img src="x" ONERROR="attack()" alt="a>b">',
    "<details open ontoggle=attack()><summary>a</summary>b</details>",
    SVG,
    "[x](javascript:attack())",
    "[x](JaVa&#115;cript&colon;attack())",
    "[x]: <java\tscript:attack()>\n\n[x]",
    '<a href="javascript:attack()">x</a>',
    '<a href=" &#106;avascript:attack()">x</a>',
    "<iframe src='https://example.org'></iframe>",
    "<iframe srcdoc='<script>attack()</script>'></iframe>",
    "<object data='https://example.org/x'></object><embed src='https://example.org/x'>",
    "<form action='javascript:attack()'><input type=submit></form>",
    "<b$ onclick=attack()>x",
    "<https://example.org/onclick=attack()//>",
    "<meta http-equiv=refresh content='0; url=https://example.org'>",
    "<base href='https://example.org'><link rel=stylesheet href='https://example.org/x.css'>",
    "<style>@import 'https://example.org/x.css'</style>",
    "<p style='position:fixed;background:url(https://example.org/x)'>x</p>",
    '`<b title="` onclick=attack() x=">` y',
    "<math><mtext><img src=x onerror=attack()></mtext></math>",
]
FORBIDDEN = "script, iframe, frame, object, embed, form, input, meta, base, link, style, svg, math"


def active(html):
    """The active parts of HTML."""
    soup = BeautifulSoup(html, features="html.parser")
    found = [tag.name for tag in soup.select(FORBIDDEN)]
    for tag in soup.find_all(True):
        for name, value in tag.attrs.items():
            address = "".join(str(value).split()).lower()
            if name.startswith("on") or address.startswith(("javascript:", "vbscript:")) or "url(" in address:
                found.append(f"{tag.name} {name}={value}")
    return found


def body(notebook, exporter=None):
    page, _ = (exporter or HTMLExporter(template_name="classic")).from_notebook_node(notebook)
    soup = BeautifulSoup(page, features="html.parser")
    return str(soup.find(id="notebook-container") or soup.body)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", ["markdown", "raw", "html", "svg", "latex", "markdown output", "block"])
def test_no_attack_reaches_a_page(attack, kind):
    cells = {
        "markdown": new_markdown_cell(f"Because {attack} holds."),
        "block": new_markdown_cell(f"<div>\n{attack}\n</div>"),
        "raw": new_raw_cell(attack),
    }
    outputs = {"html": "text/html", "svg": "image/svg+xml", "latex": "text/latex", "markdown output": "text/markdown"}
    cell = cells.get(kind) or new_code_cell("x", outputs=[new_output("display_data", {outputs[kind]: attack})])
    notebook = new_notebook(cells=[cell])
    clean_notebook(notebook)
    assert active(body(notebook)) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_stays_in_a_page_of_ours(attack):
    soup = BeautifulSoup(self_contained(f"<html><body>{attack}</body></html>"), features="html.parser")
    assert soup.select("body script, body iframe, body object, body embed, body base") == []
    for tag in soup.body.find_all(True):
        assert not any(name.startswith("on") for name in tag.attrs)
        assert not str(tag.attrs.get("href", "")).strip().lower().startswith("javascript:")


@pytest.mark.parametrize(
    "text",
    [
        "Since $a < b$ and $$\\frac{1}{2} > x$$ it holds.",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "![p](attachment:p.png) and ![q](https://example.org/q.png) and [a link](https://example.org/?a=1&b=2)",
        "A **bold** claim, `x = a < b`, and\n\n```python\nif a < b:\n    pass\n```",
        "1 < 2, x<0, and a <- b",
    ],
)
def test_harmless_markdown_is_unchanged(text):
    assert clean_markdown(text) == text


def test_formulas_mean_the_same():
    assert clean_markdown("$a<b$ and $c<0$") == "$a< b$ and $c<0$"


def test_tables_pictures_and_folds_stay():
    picture = base64.b64encode(b"picture").decode()
    html = '<table class="x"><tr><td colspan="2" style="text-align:right">1</td></tr></table>'
    html += f'<img src="data:image/png;base64,{picture}"><details><summary>a</summary>b</details>'
    for cleaned in (clean_html(html), clean_markdown(html)):
        for kept in ("<table>", 'colspan="2"', "text-align:right", f"base64,{picture}", "<summary>a</summary>b"):
            assert kept in cleaned


def test_an_svg_is_shown_as_a_picture():
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[new_output("display_data", {"image/svg+xml": SVG})])])
    clean_notebook(notebook)
    [image] = BeautifulSoup(body(notebook, Page()), features="html.parser").select("img")
    assert base64.b64decode(image["src"].partition(",")[2]).decode() == SVG


@pytest.mark.parametrize(
    "kind", ["application/javascript", "application/vnd.jupyter.widget-view+json", 'text/x"onload=a']
)
def test_other_kinds_of_output_are_named(kind):
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[new_output("display_data", {kind: "attack()"})])])
    clean_notebook(notebook)
    assert "attack()" not in body(notebook)
    assert notebook.cells[0].outputs[0].data["text/plain"].startswith("(left out: ")


def test_attachments_that_are_no_pictures_are_removed():
    kinds = {"text/html": "attack()", "image/png": '"onerror="attack()', "image/jpeg": "AAAA"}
    notebook = new_notebook(cells=[new_markdown_cell("x", attachments={"a": dict(kinds)})])
    clean_notebook(notebook)
    assert notebook.cells[0].attachments == {"a": {"image/jpeg": "AAAA"}}


def test_names_and_messages_have_no_control_characters():
    assert printable("a\x1b[31mb\rc\x00d\u202ee\u2028f") == "a [31mb c d e f"
    assert printable("علی\u200cرضا") == "علی\u200cرضا"
