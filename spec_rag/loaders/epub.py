"""EPUB books: their documents in reading order, each read as HTML."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from lxml import etree

from spec_rag.errors import UnreadableFileError
from spec_rag.loaders.archives import Archive
from spec_rag.loaders.html import decoded_page, read_page
from spec_rag.loaders.source import Content, SourceFile

_KIND = "EPUB book"
_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_OBFUSCATED_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read(source: SourceFile) -> Content:
    """The text of a book.

    Documents come in the order of the spine; the navigation document is left out.

    Raises:
        UnreadableFileError: it is damaged, too large, protected or takes too long.
    """
    archive = Archive(source, _KIND)
    _check_protection(source, archive)
    package_name = _attribute(archive.xml(_CONTAINER), "rootfile", "full-path")
    if package_name is None:
        raise source.damaged(_KIND, ValueError(f"{_CONTAINER} names no package"))
    package = archive.xml(package_name)
    texts = []
    for name in _reading_order(package, posixpath.dirname(package_name)):
        if name not in archive:
            raise source.damaged(_KIND, ValueError(f"{name!r:.100} is missing"))
        text = read_page(source, decoded_page(archive.read(name)), with_navigation=True)[1]
        if text:
            texts.append(text)
    title = next((" ".join(found.split()) for found in _texts(package, "title") if found.strip()), None)
    return Content("\n\n".join(texts), title, {"title": title} if title else {})


def _check_protection(source: SourceFile, archive: Archive) -> None:
    """Refuse a book whose text is encrypted; fonts may be obfuscated."""
    if _ENCRYPTION not in archive:
        return
    methods = {element.get("Algorithm") for element in _elements(archive.xml(_ENCRYPTION), "EncryptionMethod")}
    if methods - set(_OBFUSCATED_FONTS):
        raise UnreadableFileError(f"{source.path} is protected against copying: its text cannot be read.")


def _reading_order(package: etree._Element, folder: str) -> Iterator[str]:
    """Names of the members with the text, in the order of the spine."""
    items = {item.get("id"): item for item in _elements(package, "item")}
    seen = set()
    for reference in _elements(package, "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        address = unquote((item.get("href") or "").partition("#")[0])
        name = posixpath.normpath(posixpath.join(folder, address))
        if name not in seen:
            seen.add(name)
            yield name


def _elements(root: etree._Element, name: str) -> Iterator[etree._Element]:
    yield from root.iter(f"{{*}}{name}")


def _texts(root: etree._Element, name: str) -> Iterator[str]:
    return ("".join(element.itertext()) for element in _elements(root, name))


def _attribute(root: etree._Element, name: str, attribute: str) -> str | None:
    return next((value for element in _elements(root, name) if (value := element.get(attribute))), None)
