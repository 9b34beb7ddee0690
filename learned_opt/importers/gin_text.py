"""Reader of the text that gin's `config_str()` writes: bindings of literals, one a line. Nothing is run."""

import ast
import re
from typing import Any, NamedTuple

from learned_opt.importers.settings import ImportProblem

_BINDING = re.compile(r"(?P<selector>[\w./]+)\s*=\s*(?P<value>.+)", re.DOTALL)
_REFERENCE = re.compile(r"@(?:(?P<scope>[\w/]+)/)?(?:\w+\.)*(?P<name>\w+)(?:\(\))?\s*(?:#.*)?")
_MACRO = re.compile(r"%(?P<name>[\w./]+)\s*(?:#.*)?")


class Reference(NamedTuple):
    """`@scope/module.Name()` as a value; `scope` is "" if there is none, `name` is without modules."""

    scope: str
    name: str


class Bindings(NamedTuple):
    """What a gin file binds, as text: only what is asked for has to be understood.

    Attributes:
      where: the file's name, for the error messages.
      texts: (scope, class, argument) -> value.
      macros: name -> value.
    """

    where: str
    texts: dict[tuple[str, str, str], str]
    macros: dict[str, str]

    def of(self, name: str, scope: str = "") -> dict[str, Any]:
        """The arguments bound for a class in a scope; as in gin, the bindings of inner scopes win.

        Returns:
          argument -> literal or Reference.

        Raises:
          ImportProblem: a value is neither a literal nor a reference nor a macro that is one.
        """
        scopes = [""]
        for part in filter(None, scope.split("/")):
            scopes.append(f"{scopes[-1]}/{part}".lstrip("/"))
        texts = {}
        for outer in scopes:
            texts |= {arg: text for (at, of, arg), text in self.texts.items() if (at, of) == (outer, name)}
        return {arg: self._value(text, f"{name}.{arg}") for arg, text in texts.items()}

    def _value(self, text: str, target: str) -> Any:
        for _ in range(len(self.macros) + 1):
            macro = _MACRO.fullmatch(text)
            if macro is None:
                break
            if macro["name"] not in self.macros:
                raise ImportProblem(f"{self.where}: {target} is the macro {text}, which is not bound")
            text = self.macros[macro["name"]]
        reference = _REFERENCE.fullmatch(text)
        if reference:
            return Reference(reference["scope"] or "", reference["name"])
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ImportProblem(f"{self.where}: the value of {target} is no literal: {text[:60]!r}") from None


def parse(text: str, where: str) -> Bindings:
    """The bindings of a gin file. Comments, `import` and `include` lines are skipped.

    Args:
      text: the file.
      where: its name, for the error messages.

    Raises:
      ImportProblem: a line is not a binding.
    """
    texts, macros = {}, {}
    for line in _logical_lines(text):
        match = _BINDING.fullmatch(line)
        if match is None:
            raise ImportProblem(f"{where}: not a line of gin: {line[:60]!r}")
        scope, _, target = match["selector"].rpartition("/")
        name, _, argument = target.rpartition(".")
        if not name:
            macros[match["selector"]] = match["value"].strip()
        elif target == "macro.value":  # how older files write a macro
            macros[scope] = match["value"].strip()
        else:
            texts[scope, name.rpartition(".")[2], argument] = match["value"].strip()
    return Bindings(where, texts, macros)


def _logical_lines(text: str) -> list[str]:
    """Without comments, imports and empty lines; a value goes on after a backslash or an open bracket."""
    lines, pending = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        if not pending and re.match(r"\s*($|#|import\s|from\s|include\s)", line):
            continue
        pending = f"{pending} {line.strip()}".strip()
        if sum(map(pending.count, "([{")) <= sum(map(pending.count, ")]}")):
            lines.append(pending)
            pending = ""
    return [*lines, pending] if pending else lines
