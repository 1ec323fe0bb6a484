"""Documents: a user's own files as passages that a prompt can hold, each with the document it is from as its root.

Text and Markdown as they stand, PDF by pypdfium2 (as exact as PyMuPDF and as fast, without its AGPL), Word by
python-docx, tables row by row. A document is known by its text: moved, renamed or given twice, it is the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import BadInput, in_a_line
from .fingerprint import row_id
from .pii import redacted
from .sources import expand

LARGEST_FILE = 100_000_000
"""Bytes; a text file of this size takes four times as much memory at most."""

LARGEST_CORPUS = 100_000_000
"""Characters of all documents, which are held in memory."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f\ufffe\uffff]")
"""What PDF readers leave where a font has no letter, and no text has a use for."""

_ENDS = ("\n\n", "\n", ". ", " ")
"""Where a passage ends best, the best first."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document."""

    id: str
    text: str
    root: str


def document_files(path: str, folder: Path, key: str) -> list[Path]:
    """The files that a path or pattern names, sorted.

    Raises:
        BadInput: there is none.
    """
    return expand(path, folder, key, expected=f"a {', '.join(_READERS)} file, or a pattern such as docs/*.pdf")


def read_passages(path: str, folder: Path, key: str, size: int, *, pii: bool = False) -> list[Passage]:
    """The passages of all documents that a path or pattern names, in the order of the files.

    Args:
        key: where the path stands in the recipe, for messages.
        size: characters of a passage, at most.
        pii: put placeholders in the place of personal data.

    Raises:
        BadInput: a file cannot be read, is too large, or has no text; or what reads it is not installed.
    """
    passages: dict[str, list[Passage]] = {}
    held = 0
    for file in document_files(path, folder, key):
        text = redacted(read_document(file))[0] if pii else read_document(file)
        held += len(text)
        if held > LARGEST_CORPUS:
            raise BadInput(f"{key}: {path}: over {LARGEST_CORPUS:,} characters of text; name fewer files")
        root = row_id("document", text)
        passages[root] = [
            Passage(row_id("passage", root, str(size), str(number)), piece.strip(), root)
            for number, piece in enumerate(pieces(text, size))
            if piece.strip()
        ]
    return [passage for found in passages.values() for passage in found]


def read_document(file: Path) -> str:
    """The text of one file, never blank.

    Raises:
        BadInput: as `read_passages`.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise BadInput(f"{file}: '{file.suffix}' is not a document read here; expected {', '.join(_READERS)}")
    try:
        size = file.stat().st_size
        if size == 0:
            raise BadInput(f"{file}: the file is empty; fill it, or leave it out")
        if size > LARGEST_FILE:
            most = f"at most {LARGEST_FILE // 1_000_000} MB of a file are read"
            raise BadInput(f"{file}: {size / 1e6:,.0f} MB; {most}: split it")
        text = _CONTROL.sub("", reader(file))
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror or error}; check its permissions") from None
    if not text.strip():
        raise BadInput(f"{file}: no text in it; a scan needs OCR first, or leave the file out")
    return text


def pieces(text: str, size: int) -> Iterator[str]:
    """A text in pieces of at most ``size`` characters, which join back to it.

    A piece ends with a paragraph, a line, a sentence or a word, whichever is the first to fit into its second half.
    """
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            found = (text.rfind(mark, start + size // 2, end) + len(mark) for mark in _ENDS)
            end = next((cut for cut in found if cut > start + size // 2), end)
        yield text[start:end]
        start = end


def _plain(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig")


def _pdf(file: Path) -> str:
    pdfium = _library("pypdfium2", file)
    try:
        with pdfium.PdfDocument(file) as document:
            return "\n\n".join(_page(document, number) for number in range(len(document)))
    except pdfium.PdfiumError as error:
        raise BadInput(
            f"{file}: not a PDF that can be read: {str(error).rstrip('.')}; mend it, or leave it out"
        ) from None


def _page(document: Any, number: int) -> str:
    page = document[number]
    try:
        text: str = page.get_textpage().get_text_bounded()
    finally:
        page.close()
    return text.replace("\r\n", "\n")


def _docx(file: Path) -> str:
    docx = _library("docx", file)
    try:
        blocks = list(docx.Document(str(file)).iter_inner_content())
    except Exception as error:  # zip, XML and package errors, none of which share a class
        said = in_a_line(error, 120)
        raise BadInput(f"{file}: not a Word file that can be read: {said}; save it again, or leave it out") from None
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: Any) -> str:
    """A paragraph, or a table with a line for each row."""
    if not hasattr(block, "rows"):
        return str(block.text)
    return "\n".join("\t".join(cell.text for cell in row.cells) for row in block.rows)


def _library(name: str, file: Path) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise BadInput(f"{file}: there is no module '{name}'; run `pip install 'understudy[documents]'`") from None


_READERS = {".txt": _plain, ".md": _plain, ".pdf": _pdf, ".docx": _docx}
