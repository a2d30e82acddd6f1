"""Forms of a tweet's text: its identity, and the template that near duplicates share. The text itself is stored untouched.

`NORMALISATION` names the rules of the identity. Stored ids depend on them, so any change needs a new name and a migration of the
tables. `TEMPLATE` names those of the template: stored signatures and splits depend on it, see `finsent.data.existing_rows`.
"""

import hashlib
import html
import re
import unicodedata
from typing import Final, NamedTuple

NORMALISATION: Final = "2"
TEMPLATE: Final = "3"

URL: Final = re.compile(r"(?:https?://|www\.|\bpic\.twitter\.com/|\bt\.co/)\S*|\bhttps?\.{3}")
"""A link, in text that is folded; the start of one too, where a tweet was cut short inside it."""
_HANDLE: Final = re.compile(r"(?<![\w@])@\w+")
_RETWEET: Final = re.compile(r"^(?:rt @user\s*:?\s*)+")
_CASHTAG: Final = re.compile(r"(?<![\w$])\$[a-z][a-z0-9_.\-]{0,19}(?<![.\-])(?!\w)")
_REPEAT: Final = re.compile(r"(\W)\1{2,}")
# pictographs, dingbats, arrows, flags, skin tones and what joins them into one sign; no letters, digits or currency signs
_EMOJI: Final = re.compile(
    "[\U0001f000-\U0001faff\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u297f\u2b00-\u2bff\u20e3\U000e0020-\U000e007f]+"
)
_WORD: Final = re.compile(r"(?<![\w$@])[^\W\d_]")  # its first letter; cashtags and handles are no words
# what may stand behind the ellipsis of a text that was cut short: closing quotes and brackets, emoji, links, `(via @x)`
_BEHIND: Final = re.compile(
    rf"""(?:[\s"')\]}}»]|{_EMOJI.pattern}|(?:https?://|www\.|pic\.twitter\.com/|t\.co/)\S*+|[(\[]?\bvia @\w++)*+"""
)
_CUT: Final = re.compile(r""" ?[(\[]?(?<!\.)\.{3,}+(?:[\s"')\]}»]|[(\[]?\bvia @\w++)*+$""")
# the start of a link or an entity that a text was cut short in
_PARTIAL: Final = re.compile(r" (?:ht{0,2}|&\w{0,6})$")
_CREDIT: Final = re.compile(r"""(?<![\s"')\]}»])(?:[\s"')\]}»]|[(\[]?\bvia @\w++)++$""")
_PUNCTUATION: Final = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¦§¨©«®¯°±´¶·¸»¿‐‑‒–—―‖‗‘’‚‛“”„‟†‡•‣…‰′″‹›※‼⁃⁄、。〃〈〉《》「」『』【】〔〕・･｡"
    "\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # marks of the writing direction
)
_KEPT: Final = {".": "\x1c", "+": "\x1d", "-": "\x1e", "$": "\x1f", ",": "\x1c"}  # white space, so that no text has them by now
_FORMLESS: Final = str.maketrans("\x1c\x1d\x1e\x1f\x85", ".+-$ ", " " + _PUNCTUATION)
# what tells numbers apart: points, a comma that parts no thousands, signs, the dollar, and the space between two of them
_IN_NUMBERS: Final = re.compile(
    r"(?<=\d)\.(?=\d)|(?<=\d),(?=\d)(?!\d{3}(?!\d))|(?<![\w)])[+-](?=\$?\.?\d)|\$(?=\.?\d)|(?P<gap>(?<=\d)(?!,\d)[\W_]+(?=\d))"
)
_ANY_DIGIT: Final = re.compile(r"\d")
_SIGNS: Final = re.compile(r"([^\w\s.])\1+")
_SMILE: Final = re.compile(r"(?<!\w)[:;=]['’]?-?([()])")
# a word of plain letters between white space outlasts every step of `normalise`
_PLAIN_WORD: Final = re.compile(r"(?<!\S)(?!rt\s)[a-z]+(?!\S)", re.IGNORECASE)
# an ampersand written as entities of entities, "&amp;amp;#38;"
_NESTED: Final = re.compile(r"&(?:amp;?|#0*38(?:;|(?!\d))|#x0*26(?:;|(?![\da-f])))+")
_MOST_PASSES: Final = 8
# invisible marks that change nothing a reader sees, and quotes that keyboards set differently
_MARKS: Final = str.maketrans("‘’“”", "''\"\"", "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff")


def normalise(text: str) -> str:
    """Identity form: two tweets that a reader would call the same text have the same one.

    HTML entities resolved, Unicode width and case folded (NFKC), links dropped, handles masked, a leading `RT @x:` dropped,
    white space collapsed. Applying it twice changes nothing.
    """
    return _identity(_fold(text))


def _identity(folded: str) -> str:
    once = _strip(folded)
    # only entities and non-ASCII characters can still change: "&amp;amp;", or a fold that composes anew
    # ("&" + "amp;" * 1000 would take a thousand passes: what so many leave nested is resolved in one)
    for passes in range(2 * _MOST_PASSES):
        if "&" not in once and once.isascii():
            break
        again = _strip(_fold(_NESTED.sub("&", once) if passes == _MOST_PASSES else once))
        if again == once:
            break
        once = again
    return once


def _fold(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_MARKS))
    return text.casefold()


def _strip(folded: str) -> str:
    text = _HANDLE.sub("@user", URL.sub(" ", folded))
    return _RETWEET.sub("", " ".join(text.split()))


class Forms(NamedTuple):
    """What a text is compared by."""

    id: str
    """See `text_id`."""
    template: str
    """Near-duplicate form: the letters and numbers of the identity form, one after the other, without cashtags, handles, emoji,
    punctuation and white space. Points, signs and gaps that tell numbers apart stay. A text without a word keeps emoji, cashtags
    and marks, which are all it says."""
    truncated: bool
    """Whether it ends in an ellipsis, as platforms leave it when they cut a tweet short: inside or before a link too, and
    where a quote is closed behind it or `(via @x)` follows."""


def forms(text: str) -> Forms:
    """All forms at once, at the price of one normalisation."""
    folded = _fold(text)
    identity = _identity(folded)
    plain = identity if identity.isascii() else " ".join(_EMOJI.sub(" ", identity).split())
    masked, cut = plain, False
    if "..." in plain:
        masked = _CUT.sub("", plain)
        cut = masked != plain
    if not cut and "..." in folded and _BEHIND.fullmatch(folded, folded.rindex("...") + 3):
        masked, cut = _CREDIT.sub("", plain), True  # the ellipsis went with the link that it stood in
    if cut:
        masked = _PARTIAL.sub("", masked)
    if "$" in masked:
        masked = _CASHTAG.sub(" ", masked)
    if "@" in masked:
        masked = _HANDLE.sub(" ", masked)
    # without a word there is nothing else to tell "$AAPL 🚀" from "$TSLA 📉" by
    if _WORD.search(masked) is None:
        template = _REPEAT.sub(r"\1\1", "".join(identity.split()))
    else:
        template = _without_form(masked).replace("$", "")
    return Forms(_digest(identity), template, cut)


def _without_form(text: str) -> str:
    if _ANY_DIGIT.search(text):
        text = _IN_NUMBERS.sub(lambda found: "\x85" if found["gap"] else _KEPT[found[0]], text)
    return text.translate(_FORMLESS)


def wording(text: str) -> str:
    """What a text says, whatever its punctuation, spaces and case; cashtags and emoji are part of it, repetitions of a sign not.

    Texts of the same template need not have the same wording.
    """
    identity = _HANDLE.sub(" ", _SMILE.sub(lambda found: "\u2639" if found[1] == "(" else "\u263a", _identity(_fold(text))))
    tagged = _CASHTAG.sub(lambda found: f" \x1f{found[0][1:]} ", _CUT.sub("", identity))
    return _SIGNS.sub(r"\1", _without_form(tagged)) or identity


class Marks(NamedTuple):
    """What a tweet carries besides words."""

    retweet: bool
    """Whether it begins with `RT @x`."""
    cashtags: int
    """Different cashtags in it."""
    emoji: bool


def marks(text: str) -> Marks:
    """What is in a text, by the same rules as its forms."""
    masked = _masked(text)
    return Marks(_RETWEET.match(masked) is not None, len(set(_CASHTAG.findall(masked))), _EMOJI.search(masked) is not None)


def cashtags(text: str) -> frozenset[str]:
    """Different cashtags in a text, in lower case with their dollar sign, by the rules of `marks`."""
    return frozenset(_CASHTAG.findall(_masked(text)))


def _masked(text: str) -> str:
    return " ".join(_HANDLE.sub("@user", URL.sub(" ", _fold(text))).split())


def is_blank(text: str) -> bool:
    """Whether nothing is left of a text once links are dropped."""
    return _PLAIN_WORD.search(text) is None and not normalise(text)


def text_id(text: str) -> str:
    """Identity of a tweet: 32 hexadecimal digits of BLAKE2b over the identity form."""
    return _digest(normalise(text))


def text_hash(text: str) -> str:
    """Hash of the text as it is, to the last character: 32 hexadecimal digits."""
    return _digest(text)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
