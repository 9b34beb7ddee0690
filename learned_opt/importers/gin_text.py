"""Reader of the text that gin's `config_str()` writes: bindings of literals, one a line. Nothing is run."""

import ast
import io
import re
import tokenize
from typing import Any, NamedTuple

from learned_opt.importers.settings import ImportProblem

_BINDING = re.compile(r"(?P<selector>[\w./]+)\s*=\s*(?P<value>.+)", re.DOTALL)
_REFERENCE = re.compile(r"@(?:(?P<scope>[\w/]+)/)?(?:\w+\.)*(?P<name>\w+)(?:\(\))?")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_MACRO = re.compile(r"%(?P<name>[\w./]+)")


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
        inside = [
            key
            for key in self.texts
            if key[1] == name and (not key[0] or f"{scope}/".startswith(f"{key[0]}/"))
        ]
        texts = {key[2]: self.texts[key] for key in sorted(inside, key=lambda key: len(key[0]))}
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
      ImportProblem: a line is not a binding; a bracket or a text is not closed.
    """
    texts, macros = {}, {}
    for line in _logical_lines(text, where):
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


def _logical_lines(text: str, where: str) -> list[str]:
    """Statements without comments and imports. A value goes on inside of brackets and after a backslash."""
    lines: list[list[str]] = [[]]
    end, closing = (0, 0), []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.string in _BRACKETS:
                closing.append(_BRACKETS[token.string])
            elif token.string in _BRACKETS.values() and (not closing or closing.pop() != token.string):
                raise ImportProblem(
                    f"{where} is no gin file: a {token.string} too many at line {token.start[0]}"
                )
            if token.type == tokenize.NEWLINE:
                lines.append([])
            elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                lines[-1].append(token.string if token.start == end else f" {token.string}")
                end = token.end
    except (tokenize.TokenError, SyntaxError) as error:
        raise ImportProblem(f"{where} is no gin file: {error.args[0]} at line {_line(error)}") from error
    found = ["".join(line).strip() for line in lines]
    return [line for line in found if line and not re.match(r"(import|from|include)\b", line)]


def _line(error: Exception) -> Any:
    """Where the tokenizer stopped; the arguments of its own error are `(message, (line, column))`."""
    return error.lineno if isinstance(error, SyntaxError) else error.args[1][0]
