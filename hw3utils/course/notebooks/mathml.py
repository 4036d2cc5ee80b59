"""TeX to MathML Core, by latex2mathml and corrections of its output.

Browsers draw MathML Core without scripts, but latex2mathml writes MathML 3: here styles become code points, alignment
becomes CSS, named spaces become numbers, and equation numbers are placed beside the formula.
"""

import html
import re
import unicodedata
from xml.etree.ElementTree import Element, SubElement, tostring

from latex2mathml.commands import FUNCTIONS
from latex2mathml.converter import Converter

_TAG = re.compile(r"\\tag\*?\s*\{([^{}]*)\}")
# Commands that latex2mathml does not know, by others.
_REWRITTEN = (
    (re.compile(r"\\(begin|end)\{(?:align|aligned|equation|gather|gathered|multline)\*?\}"), r"\\\1{align*}"),
    (re.compile(r"\\(?:label\s*\{[^{}]*\}|(?:notag|nonumber)(?![a-zA-Z]))"), ""),
    (re.compile(r"\\arg\s*\\(min|max)(?![a-zA-Z])"), r"\\arg\1"),
    (re.compile(r"\\arg(?![a-zA-Z])"), r"\\operatorname{arg}"),
)
# Sized brackets and double bars become growing pairs, so that an exponent belongs to the pair.
_PAIRS = (
    (re.compile(r"(?:\\[bB]igg?l?\s*)?\\lVert(?![a-zA-Z])"), r"\\left\\|"),
    (re.compile(r"\\[bB]igg?l?\s*(?=[(\[]|\\\{|\\langle)"), r"\\left"),
    (re.compile(r"(?:\\[bB]igg?r?\s*)?\\rVert(?![a-zA-Z])"), r"\\right\\|"),
    (re.compile(r"\\[bB]igg?r?\s*(?=[)\]]|\\\}|\\rangle)"), r"\\right"),
)
_NAMED = {name[1:] for name in FUNCTIONS}
_FUNCTION = "hw3-function"
_LIMITS = re.compile(r"\\(min|max|sup|inf|lim|sum|prod)\s*(?=[_^])")
_STYLES = {"double-struck": "DOUBLE-STRUCK", "script": "SCRIPT", "fraktur": "FRAKTUR", "bold": "BOLD"}
_STYLES |= {"bold-italic": "BOLD ITALIC", "sans-serif": "SANS-SERIF", "monospace": "MONOSPACE"}
_SPACES = {"negativethinmathspace": "-0.167em", "negativemediummathspace": "-0.222em"}
_SPACES |= {"negativethickmathspace": "-0.278em", "thinmathspace": "0.167em", "thickmathspace": "0.278em"}
# Keyboard characters to accents.
_ACCENTS = {
    "~": "\u02dc",
    "^": "\u02c6",
    "\u00af": "\u00af",
    "\u02d9": "\u02d9",
    "\u00a8": "\u00a8",
    "\u2192": "\u2192",
}
_OVERLINE, _PRIME = "\u2015", "\u2032"
# Relations that latex2mathml treats as letters, without space.
_RELATIONS = {"~": "\u223c", "\u00b1": "\u00b1"}


def formula(tex: str, *, display: bool = False) -> str:
    """MathML of a formula, with its number beside it; invalid TeX is shown as it was written.

    Args:
        tex: the formula, without its dollars.
        display: displayed, not inline.

    >>> formula("a < b")
    '<math><mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi></mrow></math>'
    """
    numbers = _TAG.findall(tex)
    try:
        drawn = _mathml(_TAG.sub("", tex), display)
    except Exception:  # the converter raises anything on invalid TeX
        drawn = f"<code>{html.escape(tex)}</code>"
    if not display:
        return drawn
    number = "".join(f'<span class="hw3-number">({html.escape(number)})</span>' for number in numbers)
    return f'<span class="hw3-formula"><span class="hw3-drawn">{drawn}</span>{number}</span>'


def _mathml(tex: str, display: bool) -> str:
    """One formula; raises whatever latex2mathml raises."""
    for pattern, text in _REWRITTEN:
        tex = pattern.sub(text, tex)
    if display:
        tex = _LIMITS.sub(r"\\\1\\limits", tex)
    converter = Converter(display="block" if display else "inline")
    try:
        math = converter.convert_to_element(_paired(tex))
    except Exception:  # an unpaired bracket
        math = converter.convert_to_element(tex)
    math.attrib.pop("xmlns")
    if not display:
        del math.attrib["display"]
    for element in math.iter():
        element.text = html.unescape(element.text) if element.text else None
    for element in reversed(list(math.iter())):
        _to_core(element)
    return tostring(math, encoding="unicode")


def _paired(tex: str) -> str:
    r"""TeX with \left and \right in place of brackets of a given size and of double bars."""
    for pattern, side in _PAIRS:
        tex = pattern.sub(side, tex)
    return tex


def _to_core(element: Element) -> None:
    """Replace the deprecated attributes of one element."""
    style = element.attrib.pop("mathvariant", None)
    if style in _STYLES and element.text:
        element.text = "".join(_styled(letter, _STYLES[style]) for letter in element.text)
    elif style == "normal":
        element.set("mathvariant", "normal")
    if (width := element.get("width")) in _SPACES:
        element.set("width", _SPACES[width])
    if "columnalign" in element.attrib:
        side = element.attrib.pop("columnalign")
        element.set("style", f"text-align:{side};text-align:-webkit-{side};padding-{side}:0")
    for old in ("columnspacing", "rowspacing", "rowlines", "columnlines"):
        element.attrib.pop(old, None)
    if element.tag in ("mi", "mo"):
        _character(element)
    if element.tag == "mover" and len(element) == 2:
        _accent(element)
    if element.tag == "msup" and element[-1].text == _PRIME:
        element.tag = "mrow"  # the character itself is high and small
    if element.tag in ("mrow", "mtd", "math", "msqrt"):
        _join_upright(element)
        _space_functions(element)


def _character(element: Element) -> None:
    """Correct letters that are operators, operators that are names, and the spacing of some."""
    text = element.text or ""
    if element.tag == "mi" and text in _RELATIONS:
        element.tag, element.text = "mo", _RELATIONS[text]
    elif element.tag == "mi" and text == _PRIME:
        element.tag = "mo"
        element.attrib |= {"lspace": "0", "rspace": "0"}
    elif element.tag == "mi" and "\u0391" <= text <= "\u03a9":  # capital Greek stands upright
        element.set("mathvariant", "normal")
    elif element.tag == "mo" and text == "/":
        element.attrib |= {"lspace": "0", "rspace": "0"}
    elif element.tag == "mo" and len(text) > 1 and text.isalpha():
        element.tag = "mi"
        element.set("class", _FUNCTION)


def _styled(letter: str, style: str) -> str:
    """The code point of a letter in a style; the letter itself if there is none."""
    kind = "CAPITAL " if letter.isupper() else "SMALL " if letter.islower() else ""
    name = unicodedata.name(letter, "").rpartition(" ")[2] if letter.isalpha() else unicodedata.name(letter, "")
    old = {"FRAKTUR": "BLACK-LETTER"}.get(style, style)
    names = (f"MATHEMATICAL {style} {kind}{name}", f"{old} {kind}{name}")
    for name in names:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            continue
    return letter


def _accent(mover: Element) -> None:
    """Place an accent close to its letter; an overline is drawn by CSS, as few fonts have a stretchy one."""
    mark = mover[1]
    if mark.text == _OVERLINE:
        mover.tag = "mrow"
        mover.set("class", "hw3-overline")
        mover.remove(mark)
    elif mark.text in _ACCENTS:
        mark.text = _ACCENTS[mark.text]
        mover.set("accent", "true")
        mark.set("stretchy", "true" if len(mover[0]) else "false")


def _join_upright(row: Element) -> None:
    """Join adjacent upright letters to one word: KL, not K L."""
    if len(row) < 2 or not all(child.tag == "mi" and child.get("mathvariant") == "normal" for child in row):
        return
    word = "".join(child.text or "" for child in row)
    for child in list(row):
        row.remove(child)
    SubElement(row, "mi").text = word


def _space_functions(row: Element) -> None:
    """Put a thin space between a named function and its argument, unless that is in brackets."""
    children = list(row)
    for n in range(len(children) - 1, -1, -1):
        if not _is_function(children[n]):
            continue
        after = children[n + 1] if n + 1 < len(children) else None
        if after is not None and after.tag != "mspace" and not _is_bracket(after):
            row.insert(n + 1, Element("mspace", width="0.167em"))
        before = children[n - 1] if n else None
        if before is not None and before.tag not in ("mspace", "mo"):
            row.insert(n, Element("mspace", width="0.167em"))


def _is_function(element: Element) -> bool:
    """Whether an element is the name of a function, such as log, with or without an index."""
    name = element[0] if element.tag in ("msub", "msup", "msubsup", "munder") and len(element) else element
    return name.tag == "mi" and (name.get("class") == _FUNCTION or name.text in _NAMED)


def _is_bracket(element: Element) -> bool:
    """Whether an element begins with an operator, such as a bracket."""
    while len(element) and element.tag != "mfrac":
        element = element[0]
    return element.tag == "mo"
