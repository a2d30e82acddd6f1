"""Configuration files, profiles and overrides: read and merged, their errors explained."""

import glob
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from finsent.environ import SQLITE_FILE, absolute_path, is_url
from finsent.errors import ConfigError, one_line, quoted

_MOST_NODES: Final = 100_000


_REFERENCE: Final = r"\$\{\w+\}"  # of an environment variable: names a password and is none
_SECRETS: Final = "(?i:pass|pwd|secret|token|api_?key|access_?key|credential|signature)"
_USER: Final = rf"://[^:@/\s]*:(?!{_REFERENCE}@)"
# bounded: Python's and JSON schema's search would take the square of the time for a text of `?` or `://x:` alone
_QUERY: Final = rf"[?&][^=&\s]{{0,99}}{_SECRETS}[^=&\s]{{0,99}}=(?!{_REFERENCE}(?:&|\s|$))[^&\s]"
NO_PASSWORD: Final[dict[str, Any]] = {
    "not": {
        "description": "A URL with a password or key, which the server would store and show. Write ${NAME} in its place, and set "
        "that environment variable where the flow runs.",
        "pattern": rf"{_USER}\S{{0,999}}@|{_QUERY}",
    }
}
"""JSON schema by which Prefect's server refuses parameters with a password before it stores them."""


def mask_passwords(text: str) -> str:
    """The text with `***` for the password and keys of every URL in it; `${NAME}` stays, since it names a variable."""
    return re.sub(r"\S+", lambda word: _mask_query(_mask_user(word[0])), text)


def _mask_user(word: str) -> str:
    """Mask from the first user name to the last `@`: a password may itself hold one."""
    last = word.rfind("@")
    found = re.search(_USER, word[: last + 1])
    return f"{word[: found.end()]}***{word[last:]}" if found else word


def _mask_query(word: str) -> str:
    first, *others = word.split("&")
    return "&".join([_mask_value(first, follows=False), *(_mask_value(part, follows=True) for part in others)])


def _mask_value(part: str, *, follows: bool) -> str:
    """Mask what comes after the first name of a secret and its `=`; names begin at `?`, or at once where `&` goes before."""
    pieces = part.split("=")
    for index, piece in enumerate(pieces[:-1]):
        if re.search(_SECRETS, piece if follows and index == 0 else piece.partition("?")[2]):
            value = "=".join(pieces[index + 1 :])
            return part if not value or re.fullmatch(_REFERENCE, value) else "=".join(pieces[: index + 1]) + "=***"
    return part


def read_file(path: Path) -> dict[str, Any]:
    """Read a user's YAML file.

    Raises:
        ConfigError: it is not there, cannot be read, or holds no mapping.
    """
    path = absolute_path(str(path), "file")
    if not path.is_file():
        raise ConfigError(f"no configuration file {str(path)!r}. Give a YAML file, or leave the option out.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is not UTF-8 text: byte {error.object[error.start]:#04x} at place {error.start}. Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}. Check its permissions.") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a mapping of sections; `where` names its place in messages.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    try:
        loaded = _parse(text)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{where}, line {line}: {error.problem}. Correct the file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:  # `!!bool 3`, thousands of brackets
        raise ConfigError(f"{where} is not YAML that can be read: {one_line(error)}. Correct the file.") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{where} must hold a mapping of sections, and holds {type(loaded).__name__}.")
    return loaded or {}


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema with keys as they are written: `no`, `012` and `12:30` are no boolean, octal or base 60.

    A doubled key is an error, since one of the two would be dropped.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Take keys as text, each once."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in lines:
                problem = f"the key {key.value!r} is given twice (before in line {lines[key.value]})"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
            if key.tag != _MERGE:
                key.tag = "tag:yaml.org,2002:str"
        return node


class _CoreDumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""


_CoreLoader.yaml_implicit_resolvers = {}
_BASES: Final = ("0o", "0x")
_MERGE: Final = "tag:yaml.org,2002:merge"
_NUMBER: Final = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    for _end in (_CoreLoader, _CoreDumper):
        _end.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value, 0 if node.value[:2] in _BASES else 10))


def _parse(text: str) -> Any:
    """The one document of the text; what its aliases stand for is limited, since each is copied later.

    Raises:
        yaml.YAMLError: it is not YAML, or a key is doubled.
        ValueError: a value that its tag does not fit, or too many values behind aliases.
    """
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > _MOST_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes below this one with every alias written out; a node that holds itself counts as endless."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES + 1  # until it is known: met again below itself
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`section.key=value` items as nested mappings.

    Raises:
        ConfigError: an item is not of that form.
    """
    tree: dict[str, Any] = {}
    for item in items:
        key, found, value = item.partition("=")
        if not found or not key:
            raise ConfigError(f"override {item!r} is not of the form section.key=value, e.g. recipe.epochs=1.")
        try:
            leaf: Any = _parse(value)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(
                f"override {item!r}: the value is not YAML ({problem}). Put it in quotes of its own: \"{key}='{value}'\"."
            ) from error
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        tree = merge(tree, leaf)
    return tree


def anchor_paths(tree: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """The sections with paths in full, relative ones from `folder`: the run that uses them may have another working folder.

    Raises:
        ConfigError: a path is relative and `folder` is None; see `absolute_path`.
    """
    model = tree.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        name = model["name"]
        is_path = name.startswith(("./", "../", "/", "~", "file:")) or name in {".", ".."}
        # `owner/name` is a folder where there is one, else an id of the Hub
        if is_path or (
            name not in {"", "embedded"} and folder is not None and absolute_path(name, "model.name", folder).is_dir()
        ):
            tree = {**tree, "model": {**model, "name": str(absolute_path(name, "model.name", folder))}}
    for name in ("data", "scoring"):
        section = tree.get(name)
        if isinstance(section, dict) and isinstance(section.get("sources"), list):
            sources = [
                {**source, "uri": _anchor_uri(source["uri"], f"uri in {name}.sources", folder)}
                if isinstance(source, dict) and isinstance(source.get("uri"), str)
                else source
                for source in section["sources"]
            ]
            tree = {**tree, name: {**section, "sources": sources}}
    return tree


def _anchor_uri(uri: str, what: str, folder: Path | None) -> str:
    if found := SQLITE_FILE.fullmatch(uri):
        if found[2].startswith("${"):
            return uri  # the variable is the whole path
        return f"{found[1]}{absolute_path(found[2], what, folder)}{found[3]}"
    if uri.startswith("hf://"):
        local = uri.removeprefix("hf://")
        is_folder = folder is not None and local and absolute_path(local, what, folder).is_dir()
        return f"hf://{absolute_path(local, what, folder)}" if is_folder else uri
    if is_url(uri) or not uri.strip():
        return uri
    # a pattern stays one, and the folder that it counts from is none
    if folder is not None and glob.has_magic(uri) and not absolute_path(uri, what, folder).exists():
        folder = Path(glob.escape(str(absolute_path(str(folder), what))))
    return str(absolute_path(uri, what, folder))


def write_yaml(values: Mapping[str, Any]) -> str:
    """The text that `read_yaml` reads as these values."""
    return str(yaml.dump(dict(values), Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=110)).rstrip()


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def explain(error: ValidationError, where: str) -> str:
    """Say what is wrong with a configuration: key, value and problem of each error."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {key!r} (see `finsent config schema`)")
        else:
            advice = (
                " (write it in quotes)" if item["type"] == "string_type" and isinstance(item["input"], bool | int | float) else ""
            )
            problems.append(f"{key} = {quoted(item['input'])}: {item['msg'].removeprefix('Value error, ')}{advice}")
    return mask_passwords(f"{where}: " + "; ".join(problems))
