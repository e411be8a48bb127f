"""Does a text read as a call in the dialect of some other model, though it is not a call list of ours?

Where no call is right only plain text is. Parsers somewhere read tagged JSON, fenced code, Llama's, Mistral's or
DeepSeek's tokens and a bare call under a sentence as calls: a policy rewarded for them learns to call in disguise.

Markup that only calls are written in counts whatever it names. Anything else counts when it names a tool of the record
and is where a call can be (a line, a list, a statement, a JSON object): a sentence that mentions `f(x)` and code
that has nothing to do with the tools stay text. The time is linear in the text's length. Arguments are not read.
"""

from __future__ import annotations

import re

from components.function_calls.prompt import ToolNames
from components.function_calls.scan import closing_bracket

# Without one of these none of the forms below is there: the quick no for prose.
_SIGNS = re.compile(r"[(<{\[]|to=|\w:\d|\u273f")

# Bounded repeats throughout, so that no pattern takes more than linear time. \uff5c is DeepSeek's full-width bar.
_MARKUP = re.compile(
    r"""
      </?[\w:]{0,24}(?:tool|function)[_-]?(?:call|use)s?\b      # Hermes, Qwen, GLM, Nemotron, MiniMax, Glaive and more
    | <(?:\w{1,16}:|\uff5cDSML\uff5c)?(?:invoke|parameter)(?:=|\s{1,8}name\s{0,8}=)     # Anthropic, MiniMax, DeepSeek
    | <function\s{0,8}= | <function\s{1,8}name\s{0,8}= | <arg_(?:key|value)> | <<function>>   # Qwen-Coder, GLM, Gorilla
    | <[|\uff5c] [^|\uff5c<>\n]{0,40} (?:tool|function|python_tag|plugin|action) [^|\uff5c<>\n]{0,40} [|\uff5c]? >
                                                                # Llama, DeepSeek, Kimi, LFM2, Granite, Phi, Cohere
    | <start_function_\w{1,16}> | <tool_call\|>                 # Gemma
    | ```[^\S\n]{0,8}(?:tool|function)[_-]?(?:code|calls?|use)  # Gemma, fenced
    | \[/?(?:TOOL_CALLS?|ARGS|CALL_ID)\]                        # Mistral
    | \bto=(?:functions?|tools?)\.\w                            # gpt-oss
    | \bfunctions?\.[\w.-]{1,64}:\d                             # Kimi
    | \\?["'](?:tool_calls?|function_calls?)\\?["']\s{0,20}:\s{0,20}[\[{]     # a message of the OpenAI API
    | \u273fFUNCTION\u273f                                      # Qwen-Agent
    """,
    re.VERBOSE | re.IGNORECASE,
)

_QUOTE = r"""\\?["']"""  # JSON in a JSON string has a backslash before it
_QUOTED = rf"""{_QUOTE}([^"'\\\n]{{1,200}}){_QUOTE}"""
_COLON = r"\s{0,20}:\s{0,20}"
_NAME_KEY = re.compile(
    rf"{_QUOTE}(?:name|function|tool|action|api|func|recipient_name|(?:tool|function|api|action)_?name)"
    rf"{_QUOTE}{_COLON}{_QUOTED}",
    re.IGNORECASE,
)
_ARGUMENTS_KEY = re.compile(
    rf"{_QUOTE}(?:arguments|args|parameters|params|kwargs|(?:tool|action)_?input|tool_args){_QUOTE}{_COLON}"
    rf"(?:[\[{{]|{_QUOTE})",
    re.IGNORECASE,
)
_ONLY_A_NAME = re.compile(rf"\[?\s*\{{\s*{_QUOTE}name{_QUOTE}{_COLON}{_QUOTED}\s*\}}\s*\]?", re.IGNORECASE)
_TOOL_KEY = re.compile(rf"{_QUOTED}{_COLON}\{{")  # {"get_time": {"city": "Rome"}}
_TAG = re.compile(r"<([^\s<>/|]{1,200})[\s/>]")  # <get_time><city>Rome</city></get_time>
_NAME_IN_TAG = re.compile(r"<(?:tool|function|name|action|call)>\s{0,20}([^<>\n]{1,200})<")
_ACTION = re.compile(  # ReAct: a line that names the tool, then a line with its input
    r"""^[^\w\n]{0,8}(?:action|tool|function)(?:\ name)?\W{0,3}:[^\S\n]{0,8}
    [`"'*]{0,3}([^\n`"'*]{1,200})[`"'*]{0,3}\s{1,8}
    [^\w\n]{0,8}(?:action\ input|input|arguments|args|parameters)\W{0,3}:\s{0,8}[`\w]{0,8}\s{0,8}\{""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)

# Where a call may begin, what may stand before it there, its name, its opening bracket.
_HEAD = re.compile(
    r"""
    (?: ^[^\S\n]{0,80} | [:;\uff1a][^\S\n]{0,8} | [.!?][^\S\n]{1,8} | (?=\[) | (?<=\w\() | (?<=>) )
    (?P<decoration>              # bullets, numbers, emphasis, quotes, brackets, arrows, prompts, what is not seen
        [-*\u2022+>=\u2192\#_`"'(\[{|$@\s\u200b-\u200d\u2060\ufeff]{0,24}+
        (?: (?:\d{1,3}|[a-z])[.)] [^\S\n]{1,8} [*_`"'(\[]{0,8}+ )?
    )
    (?: [A-Za-z_]\w{0,63} (?:[^\S\n]{0,8}:[^\S\n]{0,8}[\w.\[\]]{1,40})? [^\S\n]{0,8}=[^\S\n]{0,8} )?      # x: str =
    (?: (?:await|return|yield|call:) [^\S\n]{0,8} )?
    (?P<name> [^\s()\[\]{}<>`"'*=:,;!?|\\#.] (?: [^\n()\[\]{}<>`"'*=:,;!?|\\.] | \.(?!\s) ){0,199}? )
    [`*_"']{0,4} (?P<gap>\s{0,8}) (?:[:=]>?\s{0,8}(?=\{))? (?P<open>[({])
    """,
    re.VERBOSE | re.MULTILINE,
)
_KEYWORD = re.compile(r"\s{0,80}[^\W\d]\w{0,199}\s{0,8}=(?!=)")
# Literals, or no arguments. Bare words are a signature, as a description of the tool shows it.
_LITERAL = re.compile(
    r"""\s{0,80} (?: \) | [\[{]
      | (?: "(?:[^"\\\n]|\\.){0,2000}+" | '(?:[^'\\\n]|\\.){0,2000}+'
          | [-+]?\d[\w.]{0,40} | (?:[Tt]rue|[Ff]alse|None|null)\b
        ) \s{0,8} [,)] )""",
    re.VERBOSE,
)
_OBJECT = re.compile(r"""\s{0,80}(?:\}|["']|\w{1,200}\s{0,8}:)""")  # Gemma writes keys without quotes
_END_OF_LINE = re.compile(
    r"""[^\S\n]{0,80}[`*_"'\])};,.!]{0,16}+[^\S\n]{0,80}(?:$|\#|//|<|(?:and\ |then\ |&&?\ )?\w[\w.]{0,199}\()""",
    re.VERBOSE | re.MULTILINE,
)
_GOES_ON_AS_LIST = re.compile(r"\s{0,80}[\],]")


CALL_MARKUP, JSON_CALL, CALL_IN_TEXT = "call_markup", "json_call", "call_in_text"


def foreign_form(text: str, names: ToolNames | None) -> str:
    """The kind of call that `text` reads as, "" for plain text; never raises.

    Args:
        text: an answer that `parse_calls` does not read.
        names: the tools offered; without them only what is a call whatever it names is found.

    Returns:
        CALL_MARKUP (tags and tokens), JSON_CALL (an object that names a tool) or CALL_IN_TEXT (a call as code).
    """
    if not _SIGNS.search(text):
        return ""
    if _MARKUP.search(text):
        return CALL_MARKUP
    if _is_json_call(text, names):
        return JSON_CALL
    if names is None:
        return ""
    if _names_a_tool(_TAG, text, names) or _names_a_tool(_NAME_IN_TAG, text, names):
        return CALL_MARKUP
    return CALL_IN_TEXT if _names_a_tool(_ACTION, text, names) or _has_call(text, names) else ""


def _names_a_tool(pattern: re.Pattern[str], text: str, names: ToolNames) -> bool:
    return any(names.offers(found[1]) for found in pattern.finditer(text))


def _is_json_call(text: str, names: ToolNames | None) -> bool:
    if (_NAME_KEY.search(text) and _ARGUMENTS_KEY.search(text)) or _ONLY_A_NAME.fullmatch(text.strip("`\n ")):
        return True
    return names is not None and (_names_a_tool(_NAME_KEY, text, names) or _names_a_tool(_TOOL_KEY, text, names))


def _has_call(text: str, names: ToolNames) -> bool:
    """Does a call of an offered tool stand alone on its line, in a list, or at the end of a line after a colon?"""
    at = 0
    while head := _HEAD.search(text, at):
        at = start = head.end()
        if not names.offers(head["name"]):
            continue
        if head["open"] == "{":
            if _OBJECT.match(text, start):
                return True
            continue
        if not (_KEYWORD.match(text, start) or (not head["gap"] and _LITERAL.match(text, start))):
            continue
        end = closing_bracket(text, start)
        if end is None:
            return True  # the attempt of a call
        if _END_OF_LINE.match(text, end) or ("[" in head["decoration"] and _GOES_ON_AS_LIST.match(text, end)):
            return True
        at = end
    return False
