"""Members of ZIP-based formats (.docx, .epub), with limits on what they unpack to."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress

from lxml import etree

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.source import SourceFile, check_size

_MOST_MEMBERS = 20_000
_PIECE = 2**20


class Archive:
    """A ZIP file in memory.

    Sizes are counted while members are unpacked, since the sizes that an archive states may be wrong. The members that
    are read may have `max_bytes` together.

    Args:
        source: the file.
        kind: the name of its format, for messages.

    Raises:
        UnreadableFileError: it is not a ZIP file, states a size above the limit, or has too many members.
    """

    def __init__(self, source: SourceFile, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._unpacked = 0
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(source.data))
        except Exception as error:  # a damaged file makes the module raise whatever it stumbles over
            raise source.damaged(kind, error) from error
        entries = self._zip.infolist()
        if len(entries) > _MOST_MEMBERS:
            raise UnreadableFileError(
                f"{source.path} has {len(entries):,} members, more than {_MOST_MEMBERS:,}: split it."
            )
        check_size(source.path, sum(entry.file_size for entry in entries), source.limits)

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            UnreadableFileError: it is missing, damaged or encrypted, or a limit is reached.
        """
        pieces = []
        try:
            with self._zip.open(name) as member:
                while piece := member.read(_PIECE):
                    self._source.check()
                    self._unpacked += len(piece)
                    check_size(self._source.path, self._unpacked, self._source.limits)
                    pieces.append(piece)
        except UnreadableFileError:
            raise
        except Exception as error:
            raise self._source.damaged(self._kind, error) from error
        return b"".join(pieces)

    def xml(self, name: str) -> etree._Element:
        """The root element of an XML member. Entities are not resolved, and nothing outside the archive is read.

        Raises:
            UnreadableFileError: it is missing or damaged, or a limit is reached.
        """
        data = self.read(name)
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)
        try:
            root = etree.fromstring(data, parser)
        except etree.XMLSyntaxError as error:
            raise self._source.damaged(self._kind, error) from error
        self._source.check()
        return root

    def xml_or_none(self, name: str) -> etree._Element | None:
        """The root element of an XML member, or None where it is missing or damaged."""
        with suppress(UnreadableFileError):
            return self.xml(name) if name in self else None
        return None
