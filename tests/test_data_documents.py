import random
from pathlib import Path

import pytest

from understudy.data.documents import LARGEST_FILE, pieces, read_document, read_passages
from understudy.data.errors import BadInput

PROSE = "\n\n".join(
    " ".join(f"Sentence {n} of paragraph {p} is about order {n * p}." for n in range(12)) for p in range(40)
)


def pdf(file: Path, *pages: str) -> Path:
    """A PDF of one line a page, written by hand: no library of ours writes any."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
        content = len(objects)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % content
        )
        kids.append(len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    content += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("size", [100, 333, 2000, 100_000])
def test_pieces_join_back_to_the_text_and_are_no_longer_than_asked_for(size):
    letters = random.Random(size)
    noise = "".join(letters.choice("ab .\nç語\u202e") for _ in range(5000))
    for text in (PROSE, noise, "x" * 5000, " ", ""):
        found = list(pieces(text, size))
        assert "".join(found) == text
        assert all(0 < len(piece) <= size for piece in found)


def test_a_piece_ends_where_a_paragraph_or_a_sentence_does():
    assert all(piece.rstrip().endswith(".") for piece in pieces(PROSE, 300))


def test_text_pdf_and_word_files_are_read(tmp_path):
    docx = pytest.importorskip("docx")
    word = docx.Document()
    word.add_paragraph("Parcels are insured.")
    table = word.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Oslo", "5 days"
    word.add_paragraph("That is all.")
    word.save(str(tmp_path / "b.docx"))
    (tmp_path / "a.md").write_text("\ufeff# Rückgabe\n\nInnerhalb von 30 Tagen. 返品 возврат", encoding="utf-8")
    pdf(tmp_path / "c.PDF", "Refunds take 14 days.", "Write to us.")

    assert read_document(tmp_path / "a.md") == "# Rückgabe\n\nInnerhalb von 30 Tagen. 返品 возврат"
    assert read_document(tmp_path / "b.docx") == "Parcels are insured.\n\nOslo\t5 days\n\nThat is all."
    assert read_document(tmp_path / "c.PDF") == "Refunds take 14 days.\n\nWrite to us."


def test_a_document_is_its_text_wherever_it_stands_and_is_taken_once(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "a.txt").write_text(PROSE)
    (tmp_path / "two" / "b.md").write_text(PROSE)
    (tmp_path / "two" / "c.txt").write_text("Something else.")

    first = read_passages("one/*", tmp_path, "k", 500)
    both = read_passages("*/*.*", tmp_path, "k", 500)

    assert both[:-1] == first
    assert len({passage.id for passage in both}) == len(both)
    assert len({passage.root for passage in both}) == 2


def test_control_characters_are_taken_out_and_marks_of_direction_stay(tmp_path):
    (tmp_path / "a.txt").write_text("one\x00 two\x0b \u202eeerht\u202c\n", encoding="utf-8")

    assert read_document(tmp_path / "a.txt") == "one two \u202eeerht\u202c\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: the file is empty; fill it, or leave it out"),
        ("a.txt", b" \n\x00", "a.txt: no text in it; a scan needs OCR first, or leave the file out"),
        ("a.md", "Grüße".encode("latin-1"), "a.md: byte 2 is not UTF-8; save the file as UTF-8"),
        ("a.md", "Grüße".encode("utf-16"), "a.md: byte 0 is not UTF-8; save the file as UTF-8"),
        ("a.pdf", b"%PDF-1.4 and no more", "a.pdf: not a PDF that can be read: "),
        ("a.docx", b"PK\x03\x04 and no more", "a.docx: not a Word file that can be read: "),
        ("a.xls", b"x", "a.xls: '.xls' is not a document read here; expected .txt, .md, .pdf, .docx"),
    ],
)
def test_a_file_without_text_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_passages(name, tmp_path, "generate.strategies.0", 500)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_a_pdf_of_empty_pages_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"a\.pdf: no text in it; a scan needs OCR first"):
        read_document(pdf(tmp_path / "a.pdf", "", ""))


def test_a_file_that_is_too_large_is_refused_unread_with_its_size(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(2 * LARGEST_FILE)
    with pytest.raises(BadInput, match=r"a\.txt: 200 MB; at most 100 MB of a file are read: split it"):
        read_document(tmp_path / "a.txt")


def test_too_many_documents_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.data.documents.LARGEST_CORPUS", 1000)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 400)
    with pytest.raises(BadInput, match=r"k: \*\.txt: over 1,000 characters of text; name fewer files"):
        read_passages("*.txt", tmp_path, "k", 500)


def test_a_path_that_leads_nowhere_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(BadInput) as caught:
        read_passages(".", tmp_path, "k", 500)
    assert str(caught.value) == (
        f"k: {tmp_path}: is a folder; expected a .txt, .md, .pdf, .docx file, or a pattern such as docs/*.pdf"
    )


def test_what_reads_a_format_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(BadInput, match=r"no module 'pypdfium2'; run `pip install 'understudy\[documents\]'`"):
        read_document(pdf(tmp_path / "a.pdf", "x"))
