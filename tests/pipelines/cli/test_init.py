from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3core.config.load import load_config
from pipelines.cli.template import collection_name
from tests.pipelines.cli.conftest import M3

TEXT = "a text that is long enough to be taken for one"

GOLDEN = """\
# What threefold ingests and how it is searched. Paths are relative to this file.
# Every key there is: m3 config schema. Values in force: m3 config show.

[collection]
name = "my_docs"                        # names state and stores; another name is another collection

[storage]
path = "m3-data"                        # state and stores; keep it on a local disk

[model]
name = "m3-small"                       # or a folder in BGE-M3's layout

[sources.my_docs]
kind = "folder"                         # 1 .md, 1 .txt; others, left out: 1
path = "./My Docs"                      # or url = "s3://bucket/prefix" in its place
tenant = "default"                      # every document belongs to it
# Who finds a document that does not name its readers itself. "everyone" is a principal like any
# other: it is whom m3 search asks for unless --as says otherwise. Without an acl nothing is guessed:
# such documents are refused.
acl = ["everyone"]
# language = "en"                       # of all documents here, if it is one

# Metadata that searches can filter on: string, strings, integer, number or boolean. A document whose
# value has another type is listed as failed.
[fields]
# year = "integer"

[stores.main]
kind = "qdrant-edge"                    # embedded: no server needed
signals = ["dense", "lexical", "multi"]
text = true                             # exactly one store keeps the texts

[search]
preset = "balanced"                     # long-documents, cross-lingual, dense-only
limit = 10
tenant = "default"                      # whom m3 search asks for without --as
principals = ["everyone"]
"""


@pytest.fixture
def docs(here: Path) -> Path:
    folder = here / "My Docs"
    folder.mkdir()
    for name in ("a.md", "b.txt", "c.pdf"):
        (folder / name).write_text(TEXT, encoding="utf-8")
    return folder


def test_the_written_file_is_this_one_and_is_valid(m3: M3, here: Path, docs: Path) -> None:
    ended = m3("init", "./My Docs")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "wrote m3.toml: collection my_docs from My Docs\nNext:  m3 ingest\n"
    assert (here / "m3.toml").read_text(encoding="utf-8") == GOLDEN
    config = load_config(here / "m3.toml", {}).config
    assert config.sources["my_docs"].path == Path("My Docs")
    assert config.stores["main"].kind == "qdrant-edge"


def test_it_refuses_to_overwrite_without_force(m3: M3, here: Path, docs: Path) -> None:
    (here / "m3.toml").write_text("mine", encoding="utf-8")
    ended = m3("init", docs)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "m3: usage: m3.toml is there already. Remedy: m3 init with --force replaces it, with -c FILE writes another\n"
    )
    assert (here / "m3.toml").read_text(encoding="utf-8") == "mine"
    assert m3("init", docs, "--force").code == 0
    assert (here / "m3.toml").read_text(encoding="utf-8") == GOLDEN


def test_a_dry_run_prints_and_writes_nothing(m3: M3, here: Path, docs: Path) -> None:
    ended = m3("init", docs, "--dry-run")
    assert ended.out == GOLDEN
    assert not (here / "m3.toml").exists()


def test_another_file_name_and_tenant(m3: M3, here: Path, docs: Path) -> None:
    (here / "conf").mkdir()
    ended = m3("init", docs, "-c", "conf/a b.toml", "--name", "handbook", "--tenant", 'ac"me')
    assert ended.out.splitlines()[-1] == "Next:  m3 ingest -c 'conf/a b.toml'"
    config = load_config(here / "conf" / "a b.toml", {}).config
    assert config.collection.name == "handbook"
    assert config.sources["my_docs"].path == Path("../My Docs")
    assert config.sources["my_docs"].tenant == config.search.tenant == 'ac"me'


def test_records_declare_their_fields(m3: M3, here: Path) -> None:
    rows = [{"_id": f"{n}", "body": TEXT, "year": n, "tags": ["x"], "odd": {"a": 1}, "acl": ["a"]} for n in range(3)]
    (here / "Récords 2.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert m3("init", "Récords 2.jsonl").code == 0
    config = load_config(here / "m3.toml", {}).config
    source = config.sources["records_2"]
    assert (source.kind, source.path) == ("jsonl", Path("Récords 2.jsonl"))
    assert (source.id_field, source.text_field) == ("_id", "body")
    assert source.acl is None, "documents that name their readers get no default beside"
    assert config.fields == {"year": "integer", "tags": "strings"}
    assert "# Not used: odd." in (here / "m3.toml").read_text(encoding="utf-8")


def test_several_files_of_records_are_one_source(m3: M3, here: Path) -> None:
    folder = here / "dump"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(json.dumps({"id": name, "text": TEXT}), encoding="utf-8")
    assert m3("init", "dump").code == 0
    source = load_config(here / "m3.toml", {}).config.sources["dump"]
    assert (source.kind, source.path) == ("jsonl", Path("dump"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["absent"],
            "m3: usage: absent: no such file or folder. Remedy: name the folder with your documents: m3 init ./docs",
        ),
        (
            ["My Docs", "--name", "My Docs"],
            "m3: usage: --name 'My Docs': no name of a collection. "
            "Remedy: begin with a letter from a to z and go on with such letters, digits and _, 41 at most",
        ),
        (["My Docs", "--tenant", ""], "m3: usage: --tenant has 0 characters. Remedy: give it 1 to 128"),
        ([], "m3: usage: m3 init: missing argument 'PATH'. Remedy: m3 init --help"),
    ],
)
def test_what_init_refuses(m3: M3, here: Path, docs: Path, arguments: list[str], line: str) -> None:
    ended = m3("init", *arguments)
    assert (ended.code, ended.out, ended.err) == (2, "", line + "\n")
    assert not (here / "m3.toml").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("docs", "docs"),
        ("My Docs (2024)", "my_docs_2024"),
        ("2024", "c_2024"),
        ("Überblick", "uberblick"),
        ("文書", "documents"),
        ("x" * 80, "x" * 41),
    ],
)
def test_collection_names(path: str, name: str) -> None:
    assert collection_name(Path(path)) == name
