"""What a .pt2 file would run when torch.export.load reads it; a file with any of that is refused.

torch.export.load runs more than the graph (torch 2.15, torch/export/pt2_archive/_package.py and
torch/_export/serde/serialize.py): compiled libraries under data/aotinductor are loaded; weights, constants
and sample inputs may be pickles, of which it takes any kind; symbolic sizes are Python expressions, which
SymPy gives to eval; a node's target may name any function below `torch`, and the description of the inputs
any module to import. None of that is in a file that torch.export.save wrote of a plain network, so `load`
asks for exactly such files.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch

from edgeprune.errors import ModelError
from edgeprune.untrusted import parse_json, read_bytes

MOST_BYTES = 8 * 2**30
MOST_EXPANDED = 4
"""The archive holds its parts as they are: nothing in it expands much."""
PARTS = re.compile(
    r"[^/]+/(?:archive_format|archive_version|byteorder|version|\.data/[\w.]+|\.format_version|"
    r"\.storage_alignment|models/(?P<model>[\w.]+)\.json|extra/[^/]*|"
    r"data/(?:weights|constants)/(?:(?P<config>[\w.]+_config\.json)|(?:weight|tensor)_\d+)|"
    r"data/sample_inputs/[\w.]+\.pt)"
)
OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision|higher_order)\.(?!from_file)\w+(?:\.\w+)?|torch\.sym_\w+|"
    r"math\.(?:ceil|floor|trunc|sqrt|pow)|"
    r"_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
WORDS_OF_SIZES = frozenset(
    (
        *(
            "FloorDiv",
            "ModularIndexing",
            "Where",
            "PythonMod",
            "Mod",
            "CleanDiv",
            "CeilDiv",
            "LShift",
            "RShift",
        ),
        *("CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "ToFloat", "TruncToFloat", "PowByNatural"),
        *(
            "FloatPow",
            "FloatTrueDiv",
            "IntTrueDiv",
            "Identity",
            "Max",
            "Min",
            "Eq",
            "Ne",
            "Lt",
            "Le",
            "Gt",
            "Ge",
        ),
        *("And", "Or", "Not", "True", "False", "oo", "int_oo"),
        *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Equality", "Unequality"),
        *("LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "precision"),
        *("positive", "negative", "nonnegative", "nonzero", "integer", "real", "finite"),
    )
)
SYMBOL = re.compile(r"[a-z]+\d+")


class RefusedError(Exception):
    """A part that a plain exported network does not have."""


def load(path: Path) -> torch.nn.Module:
    """Return the graph of an exported program as a module; nothing of the file is run.

    Raises:
        ModelError: It cannot be read, or could run code.
    """
    try:
        content = read_bytes(path, most=MOST_BYTES)  # what is checked is what is loaded
        check(content)
        with _weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's form; what matters of it comes as an error
            module = torch.export.load(BytesIO(content)).module()
    except (RefusedError, pickle.UnpicklingError) as err:
        raise ModelError(
            f"{path}: refused: loading it could run code ({_one_line(err)}); export the network again with "
            "torch.export.save, or give it as python:file.py:factory with a state dict."
        ) from err
    except Exception as err:  # the archive's reader raises whatever its parts raise
        raise ModelError(f"{path}: not a readable exported program: {_one_line(err)}") from err
    return module


def check(content: bytes) -> None:
    """Raise RefusedError where loading an archive could run code; other errors where it is damaged."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise RefusedError("two parts have one name")
        if sum(entry.file_size for entry in entries) > MOST_EXPANDED * len(content):
            raise RefusedError("it expands to many times its size")
        for name in names:
            found = PARTS.fullmatch(name)
            if found is None:
                raise RefusedError(f"unknown part {name!r}")
            if found["config"]:
                _check_payloads(parse_json(archive.read(name)))
            elif found["model"]:
                _check_graph(parse_json(archive.read(name)))


def _check_payloads(config: object) -> None:
    """Weights and constants are tensors; those that are pickles are left to `_weights_only`."""
    for key, value in _walk(config):
        if key == "path_name" and not re.fullmatch(r"(?:weight|tensor)_\d+", str(value)):
            raise RefusedError(f"a constant {value!r} that is no tensor")


def _check_graph(program: object) -> None:
    for key, value in _walk(program):
        text = str(value)
        if key == "target" and not OPERATORS.fullmatch(text):
            raise RefusedError(f"an operation {text[:80]!r}")
        if key == "expr_str" and not _is_size(text):
            raise RefusedError(f"a size {text[:80]!r}")
        if key in ("in_spec", "out_spec"):
            _check_containers(text)


def _check_containers(spec: str) -> None:
    """How inputs are packed: only in containers of Python itself."""
    if spec:
        for key, value in _walk(parse_json(spec.encode())):
            if key == "type" and value not in CONTAINERS:
                raise RefusedError(f"inputs in a container {str(value)[:80]!r}")


def _is_size(text: str) -> bool:
    """Whether an expression is arithmetic over symbols like s77, which may stand in quotes."""
    text = re.sub(rf"'({SYMBOL.pattern})'", r"\1", text)
    if re.search(r"[^\w\s()+\-*/,.<>=%&|~]|__|[A-Za-z_)\]]\s*\.|\.\s*[A-Za-z_(]", text):
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    return all(word in WORDS_OF_SIZES or SYMBOL.fullmatch(word) for word in words)


def _walk(value: object) -> Iterator[tuple[str, object]]:
    """Every key of JSON with its plain value, however deep."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            waiting += current.values()
            yield from ((key, each) for key, each in current.items() if not isinstance(each, dict | list))
        elif isinstance(current, list):
            waiting += current


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch.load read tensors and nothing else, also where torch.export asks it for more."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _one_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"{lines[0][:300]}" if lines else type(err).__name__
