"""Files are uploaded once, and later requests name them."""

from __future__ import annotations

import httpx
import pytest


def test_a_file_that_was_read_is_named_in_later_requests(url: str) -> None:
    text = "Tank 3 holds 300 litres. " + "The pump is red. " * 60
    read = httpx.post(f"{url}/v1/read", files={"file": ("a.txt", text.encode("utf-16"))}).json()
    assert read["text"] == text
    sent = {"query": "How much does tank 3 hold?", "ratio": 0.2}
    by_name = httpx.post(f"{url}/v1/compress", json={**sent, "documents": [{"file": read["id"], "title": "Tanks"}]})
    by_text = httpx.post(f"{url}/v1/compress", json={**sent, "documents": [{"text": text, "title": "Tanks"}]})
    assert by_name.json()["documents"] == by_text.json()["documents"]


@pytest.mark.parametrize(
    ("name", "headers"), [("file-unknown", {}), (None, {"Authorization": "Bearer other"})], ids=["unknown", "foreign"]
)
def test_a_file_that_is_not_stored_for_this_client_is_refused(
    url: str, name: str | None, headers: dict[str, str]
) -> None:
    read = httpx.post(f"{url}/v1/read", files={"file": ("a.txt", b"Tank 3 holds 300 litres.")}).json()
    body = {"query": "tank", "documents": [{"file": name or read["id"]}]}
    answered = httpx.post(f"{url}/v1/compress", json=body, headers=headers)
    error = answered.json()["error"]
    assert answered.status_code == 404
    assert "upload it again" in error["message"]
    assert (error["code"], error["param"]) == ("file_not_found", "documents")


@pytest.mark.parametrize("encoding", ["idna", "hex", "no-such", "undefined", "utf-8\0", "a" * 99])
def test_a_wrong_encoding_of_an_uploaded_file_is_refused(url: str, encoding: str) -> None:
    sent = httpx.post(f"{url}/v1/read", files={"file": ("a.txt", b"\xff\x00k")}, data={"encoding": encoding})
    assert sent.status_code == 400
    latin = httpx.post(f"{url}/v1/read", files={"file": ("a.txt", b"K\xe4se")}, data={"encoding": "latin-1"})
    assert latin.json()["text"] == "Käse"
