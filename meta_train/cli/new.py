"""`meta-train new`: a working file of one's own, with its test."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple


class Template(NamedTuple):
    """What is written for one kind.

    Attributes:
      section: of a config that names it.
      suite: the function that certifies it, `module:function`.
      call: of the suite, NAME being the factory.
      note: what the test says of it.
    """

    section: str
    suite: str
    call: str
    note: str


TEMPLATES = {
    "estimator": Template(
        "estimator: {{name: {file}:{name}}}",
        "meta_train.testing:check_estimator",
        "check_estimator(NAME, smoothing=None)",
        '# Truncation biases it, so nothing is claimed of its mean; of PES it would be smoothing="window".',
    ),
    "task": Template(
        "tasks: [{{name: {file}:{name}}}]", "tasks.contract:check_task", "check_task(NAME())", ""
    ),
    "optimizer": Template(
        "learned_optimizer: {{name: {file}:{name}}}",
        "learned_opt.contract:check_optimizer",
        "check_optimizer(NAME())",
        "",
    ),
}


def add(commands: Any) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "new",
        help="write a working estimator, task or learned optimizer of your own, with its test",
        description="Writes NAME.py and test_NAME.py, which pass as they are. Existing files are kept.",
    )
    parser.add_argument("kind", choices=TEMPLATES, metavar="|".join(TEMPLATES))
    parser.add_argument("name", metavar="NAME", help="of the function and of its file")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    parser.set_defaults(command=new_command)


def new_command(args: argparse.Namespace) -> int:
    """`meta-train new`."""
    file, test = write(args.kind, args.name, args.out)
    section = TEMPLATES[args.kind].section.format(file=file.name, name=args.name)
    print(f"{file} and {test} are written")
    print(f"check it:  meta-train check {file}:{args.name}; pytest {test}")
    print(f"use it:    {section}  # in a config next to it")
    return 0


def write(kind: str, name: str, directory: Path) -> tuple[Path, Path]:
    """Writes a file and its test into a directory, which is made if it is missing.

    Args:
      kind: a key of TEMPLATES.
      name: of the function, and of the file.
      directory: where.

    Raises:
      RunError: a name that is none in Python, or is that of a module; a file that exists.
    """
    from learned_opt.artefact.atomic import write_file
    from meta_train.errors import RunError

    file, test = directory / f"{name}.py", directory / f"test_{name}.py"
    for path in (file, test):
        if path.exists():
            raise RunError(f"{path} exists already, and will not be overwritten: choose another name")
    _refuse_name(name)
    directory.mkdir(parents=True, exist_ok=True)
    write_file(file, source(kind, name))
    write_file(test, test_source(kind, name))
    return file, test


def _refuse_name(name: str) -> None:
    import importlib.util
    import keyword

    from meta_train.errors import RunError

    if not name.isidentifier() or keyword.iskeyword(name):
        raise RunError(f"NAME must be a name in Python (letters, digits, _), got {name}")
    if importlib.util.find_spec(name) is not None:
        raise RunError(f"NAME must not be that of a module, which {name} is: its file would hide the module")


def source(kind: str, name: str) -> str:
    """The text of the file: the template with the name in it."""
    text = (Path(__file__).parent / "templates" / f"example_{kind}.py").read_text(encoding="utf-8")
    return text.replace(f"my_{kind}", name)


def test_source(kind: str, name: str) -> str:
    """The text of its test."""
    template = TEMPLATES[kind]
    module, _, function = template.suite.partition(":")
    lines = [
        f'"""The contract of `{name}`."""',
        "",
        f"from {name} import {name}",
        "",
        f"from {module} import {function}",
        "",
        "",
        "def test_it_passes_every_check():",
        *([f"    {template.note}"] if template.note else []),
        f"    found = {template.call.replace('NAME', name)}",
        "    assert {check: one.detail for check, one in found.items() if not one.passed} == {}",
    ]
    return "\n".join(lines) + "\n"
