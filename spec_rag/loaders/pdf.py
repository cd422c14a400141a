"""PDF files."""

from __future__ import annotations

import io

from pypdf import PdfReader

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.source import Content, SourceFile


def read(source: SourceFile) -> Content:
    """The text of the pages.

    Raises:
        UnreadableFileError: it is damaged, encrypted, has no text or takes too long.
    """
    try:
        reader = PdfReader(io.BytesIO(source.data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFileError(f"{source.path} is protected by a password: save a copy without it.")
        pages = []
        for page in reader.pages:
            source.check()
            pages.append(page.extract_text(visitor_operand_before=lambda *_: source.check()).strip())
    except UnreadableFileError:
        raise
    except Exception as error:  # a damaged file makes pypdf raise whatever its parser stumbles over
        raise source.damaged("PDF", error) from error
    if not any(pages):
        raise UnreadableFileError(
            f"{source.path} holds no text on its {len(pages)} pages: it is probably a scan. Run text recognition on it "
            "first (e.g. ocrmypdf)."
        )
    starts, position = [], 0
    for page in pages:
        starts.append(position)
        position += len(page) + 2
    return Content("\n\n".join(pages), metadata={"page_starts": starts})
