"""The one place where text becomes DOT, SVG, HTML or an address: names are never trusted.

A VM may be called ``"><script>alert(1)</script>`` or hold a character that turns the reading direction around. What
is shown is exactly what was typed, as far as it can be shown; what cannot be shown becomes U+FFFD. Invariant: the
result of these functions holds no character with a meaning in the language that it is put into.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

__all__ = ["address", "clean", "dot_string", "html", "key_of"]

_MARKUP = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"}
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_ADDRESS_SAFE = "/:@._~-+,"


def clean(text: str) -> str:
    """``text`` on one line; what cannot be seen (controls, direction marks, lone surrogates) becomes U+FFFD.

    >>> clean("vm\\n1"), clean("a\\u202eb")
    ('vm�1', 'a�b')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(letter) in _UNSEEN else letter for letter in text)


def html(text: str) -> str:
    """``text`` for the inside of an element or of a quoted attribute, in HTML and in XML.

    >>> html('<b class="x">')
    '&lt;b class=&quot;x&quot;&gt;'
    """
    return clean(text).translate(_MARKUP)


def dot_string(*lines: str) -> str:
    """Lines as one quoted DOT label, with backslashes and ``&`` masked: Graphviz would read escapes and entities.

    >>> print(dot_string('say "hi"', "a\\\\b &amp;"))
    "say \\"hi\\"\\na\\\\b &amp;amp;"
    """
    return '"' + "\\n".join(_dot_line(line) for line in lines) + '"'


def _dot_line(line: str) -> str:
    return clean(line).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def address(key: str) -> str:
    """A key as it is written outside Python (DOT, ``data-key``, messages): ASCII, one to one, plain keys unchanged.

    >>> address("vm:vm1"), address('vm:"<x>')
    ('vm:vm1', 'vm:%22%3Cx%3E')
    """
    return quote(key, safe=_ADDRESS_SAFE, errors="surrogatepass")


def key_of(written: str) -> str:
    """The key that :func:`address` wrote.

    >>> key_of(address('vm:"<x>'))
    'vm:"<x>'
    """
    return unquote(written, errors="surrogatepass")
