"""Word documents."""

from __future__ import annotations

import io
import zipfile

import docx
from docx.table import Table

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.limits import check_size
from spec_rag.loaders.source import Content, SourceFile


def read(source: SourceFile) -> Content:
    """The paragraphs and tables of a document, in their order.

    Raises:
        UnreadableFileError: it is damaged or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            check_size(source.path, sum(entry.file_size for entry in archive.infolist()), source.limits)
        document = docx.Document(io.BytesIO(source.data))
        blocks = [
            "\n".join(" \t".join(cell.text for cell in row.cells) for row in block.rows)
            if isinstance(block, Table)
            else block.text
            for block in document.iter_inner_content()
        ]
        title = document.core_properties.title
    except UnreadableFileError:
        raise
    except Exception as error:  # a damaged file makes its parsers raise whatever they stumble over
        raise source.damaged("Word document", error) from error
    return Content("\n\n".join(block for block in blocks if block.strip()), title or None)
