from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3core.config.load import MAX_BYTES, LoadedConfig, flat, load_config
from m3core.config.model import RESERVED_FIELDS, Config
from m3core.config.toml import toml_key, toml_value
from m3core.errors import ConfigError, ExitCode

MINIMAL = """\
[collection]
name = "docs"

[sources.docs]
kind = "folder"
path = "./docs"
"""
KINDS = ("memory", "qdrant-edge")


def load(folder: Path, text: str, env: dict[str, str] | None = None) -> LoadedConfig:
    file = folder / "m3.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, env or {}, store_kinds=KINDS)


def refused(folder: Path, text: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Message and remedy, the folder's name left out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, env)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in str(caught.value)
    return caught.value.message.replace(f"{folder}/", ""), caught.value.remedy


def test_defaults_are_in_force_and_named_as_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL)
    assert loaded.config.search.limit == 10
    assert loaded.config.stores["main"].kind == "qdrant-edge"
    assert loaded.origins["search.limit"] == "default"
    assert loaded.origins["stores.main.kind"] == "default"
    assert loaded.origins["collection.name"] == f"{tmp_path}/m3.toml:2"
    assert loaded.origins["sources.docs.path"] == f"{tmp_path}/m3.toml:6"


def test_base_is_the_folder_of_the_file_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "m3.toml").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    loaded = load_config(Path("conf/m3.toml"), {})
    assert loaded.base == tmp_path / "conf"
    assert loaded.origins["collection.name"] == "conf/m3.toml:2"


def test_the_storage_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    loaded = load(tmp_path, MINIMAL + '[storage]\npath = "~/m3"\n')
    assert loaded.config.storage.path == Path("/home/ann/m3")


@pytest.mark.parametrize("url", ["s3://notes", "gs://notes/", "s3://notes/a b/@c/ü.parquet"])
def test_a_source_may_lie_in_a_bucket(tmp_path: Path, url: str) -> None:
    source = load(tmp_path, MINIMAL.replace('path = "./docs"', f'url = "{url}"')).config.sources["docs"]
    assert (source.path, source.place, source.place_key) == (None, url, "url")
    moved = {"M3_SOURCES__DOCS__PATH": "", "M3_SOURCES__DOCS__URL": url}
    assert load(tmp_path, MINIMAL, moved).config.sources["docs"] == source


def test_without_a_path_the_environment_names_the_file_then_m3_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(None, {})
    assert str(caught.value) == "no configuration at m3.toml. Remedy: write one with: m3 init ./docs"
    Path("other.toml").write_text(MINIMAL.replace("docs", "other"), encoding="utf-8")
    assert load_config(None, {"M3_CONFIG": "other.toml"}).config.collection.name == "other"
    Path("m3.toml").write_text(MINIMAL, encoding="utf-8")
    assert load_config(None, {}).config.collection.name == "docs"


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (
            MINIMAL + '[stores.main]\nkind = "qdrant_edge"\n',
            'm3.toml:8 stores.main.kind = "qdrant_edge": no such store',
            'did you mean "qdrant-edge"?',
        ),
        (MINIMAL + "[serch]\nlimit = 3\n", "m3.toml:7 serch: no such key", 'did you mean "search"?'),
        (MINIMAL + "[search]\nlimt = 3\n", "m3.toml:8 search.limt: no such key", 'did you mean "limit"?'),
        (
            MINIMAL + "[search]\nlimit = 0\n",
            "m3.toml:8 search.limit = 0: must be at least 1",
            "leave it out for the default 10",
        ),
        (
            MINIMAL + '[search]\nlimit = "5"\n',
            'm3.toml:8 search.limit = "5": must be a whole number',
            "leave it out for the default 10",
        ),
        (
            MINIMAL + "[search]\nlimit = true\n",
            "m3.toml:8 search.limit = true: must be a whole number",
            "leave it out for the default 10",
        ),
        (
            MINIMAL + "[search]\ntimeout = 0\n",
            "m3.toml:8 search.timeout = 0: must be more than 0",
            "leave it out for the default 10.0",
        ),
        (
            MINIMAL + '[search]\nprincipals = "staff"\n',
            'm3.toml:8 search.principals = "staff": must be a list',
            'leave it out for the default ["everyone"]',
        ),
        (
            MINIMAL + "[search]\ntenant = 7\n",
            "m3.toml:8 search.tenant = 7: must be a string",
            'leave it out for the default "default"',
        ),
        (
            MINIMAL + '[search]\ntenant = ""\n',
            'm3.toml:8 search.tenant = "": must have at least 1 character',
            'leave it out for the default "default"',
        ),
        (
            MINIMAL.replace('name = "docs"', 'name = "My Docs"'),
            'm3.toml:2 collection.name = "My Docs": must match ^[a-z][a-z0-9_]{0,40}$',
            "begin with a letter from a to z and go on with such letters, digits and _",
        ),
        (
            MINIMAL.replace("[sources.docs]", '[sources."my docs"]'),
            "m3.toml:4 sources.my docs: 'my docs' is no name",
            "begin with a letter from a to z and go on with such letters, digits, _ and -",
        ),
        (
            MINIMAL.replace('"folder"', '"fodler"'),
            'm3.toml:5 sources.docs.kind = "fodler": must be one of folder, jsonl or parquet',
            'did you mean "folder"?',
        ),
        (
            MINIMAL.replace('path = "./docs"\n', ""),
            "m3.toml:4 sources.docs.path is missing",
            "add path to [sources.docs], or url for a bucket",
        ),
        (
            MINIMAL + 'url = "s3://notes/all"\n',
            'm3.toml:7 sources.docs.url = "s3://notes/all": path = "docs" is given too',
            "a source lies in one place: leave one of the two out",
        ),
        (
            MINIMAL.replace('path = "./docs"', 'path = "s3://notes/all"'),
            'm3.toml:6 sources.docs.path = "s3:/notes/all": must be a folder or file of this machine',
            "write the address as url of [sources.docs]",
        ),
        *(
            (
                MINIMAL.replace('path = "./docs"', f'url = "{url}"'),
                f'm3.toml:6 sources.docs.url = "{url}": must be s3:// or gs://, a bucket, and at most a prefix',
                "write it as s3://BUCKET/PREFIX; ? and # in a prefix are %3F and %23",
            )
            for url in (
                "docs",
                "https://notes/all",
                "s3:/notes",
                "s3://",
                "s3:///all",
                "gs://notes/a?b",
                "s3://notes#a",
            )
        ),
        (
            MINIMAL.replace('path = "./docs"', 'url = "s3://key:hunter2@notes/all"'),
            "m3.toml:6 sources.docs.url must not hold credentials",
            "they come from the environment, as AWS_ACCESS_KEY_ID",
        ),
        (
            MINIMAL + '[storage]\nurl = "s3://key:hunter2@notes/all"\n',
            "m3.toml:8 storage.url must not hold credentials",
            "they come from the environment, as AWS_ACCESS_KEY_ID",
        ),
        (
            MINIMAL + '[storage]\nurl = "s3://notes/all?x"\n',
            'm3.toml:8 storage.url = "s3://notes/all?x": must be s3:// or gs://, a bucket, and at most a prefix',
            "write it as s3://BUCKET/PREFIX; ? and # in a prefix are %3F and %23",
        ),
        ('[collection]\nname = "docs"\n', "m3.toml sources is missing", "add a table [sources.NAME]"),
        (
            MINIMAL + '[fields]\nyear = "int"\n',
            'm3.toml:8 fields.year = "int": must be one of string, strings, integer, number or boolean',
            'did you mean "integer"?',
        ),
        (
            MINIMAL + '[fields]\nacl = "string"\n',
            "m3.toml:8 fields.acl is a name of the row itself",
            "rename the metadata field",
        ),
        (
            MINIMAL + '[stores.a]\nkind = "memory"\n[stores.b]\nkind = "memory"\ntext = false\nsignals = ["multi"]\n',
            "m3.toml:12 stores.b.signals multi is already kept by store a",
            "name multi in one of them only",
        ),
        (
            MINIMAL + '[stores.a]\nkind = "memory"\ntext = false\n',
            "m3.toml:7 stores must keep the text in exactly one store, not in 0",
            "set text = true in one of them and text = false in the others",
        ),
        (
            MINIMAL + '[stores.a]\nkind = "memory"\nsignals = ["dens"]\n',
            'm3.toml:9 stores.a.signals = "dens": must be one of dense, lexical or multi',
            'did you mean "dense"?',
        ),
        (
            MINIMAL + "[model]\nrevision = 'main'\n",
            'm3.toml:8 model.revision = "main": must match ^[0-9a-f]{40}$',
            "write a full 40-digit commit in lower-case hexadecimal",
        ),
        (MINIMAL + "[[stores]]\nkind = 'memory'\n", 'm3.toml:7 stores = [{ kind = "memory" }]: must be a table', None),
        (
            MINIMAL + "limit = \n",
            "m3.toml:7: no valid TOML: Invalid value",
            "strings need quotes, tables need [brackets]",
        ),
        (
            MINIMAL + "name = [\n",
            "m3.toml:8: no valid TOML: Invalid value",
            "strings need quotes, tables need [brackets]",
        ),
        (
            MINIMAL + '[collection]\nname = "again"\n',
            "m3.toml:7: no valid TOML: Cannot declare ('collection',) twice",
            "strings need quotes, tables need [brackets]",
        ),
    ],
)
def test_a_wrong_file_is_one_line_with_place_value_rule_and_remedy(
    tmp_path: Path, text: str, message: str, remedy: str | None
) -> None:
    told, advice = refused(tmp_path, text)
    assert told == message
    assert advice == (remedy if remedy is not None else "`m3 config schema` describes every key")


def test_the_value_under_an_unknown_key_is_not_shown(tmp_path: Path) -> None:
    message, remedy = refused(tmp_path, MINIMAL + '[search]\npassword = "hunter2"\n')
    assert "hunter2" not in message + remedy


def test_further_problems_are_counted(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, MINIMAL + "[search]\nlimit = 0\ncandidates = 0\ntimeout = nan\n")
    assert message == "m3.toml:8 search.limit = 0: must be at least 1 (and 2 more)"


def test_a_long_value_is_cut_and_its_control_characters_are_gone(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, MINIMAL + '[model]\nrevision = "\\u001b[31m\\u202e' + "x" * 500 + '"\n')
    assert len(message) < 150
    assert "\x1b" not in message
    assert "\u202e" not in message


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m3.toml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="1,048,577 bytes, more than 1,048,576"):
        load_config(file, {})
    file.write_bytes(MINIMAL.encode() + b'x = "\xff"')
    with pytest.raises(ConfigError, match=f"byte {len(MINIMAL) + 5} is not UTF-8"):
        load_config(file, {})
    with pytest.raises(ConfigError, match="no configuration at"):
        load_config(tmp_path, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m3.toml"
    file.write_text(MINIMAL, encoding="utf-8")
    file.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load_config(file, {})


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    message, _ = refused(tmp_path, MINIMAL + "x = " + "[" * 20_000 + "]" * 20_000)
    assert "nested too deeply" in message


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    file = tmp_path / "m3.toml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(file, {}).origins["sources.docs.path"].endswith(":6")


# --- the environment ---


@pytest.mark.parametrize(
    ("variable", "value", "key", "expected"),
    [
        ("M3_SEARCH__LIMIT", "5", "search.limit", 5),
        ("M3_SEARCH__TIMEOUT", "2", "search.timeout", 2.0),
        ("M3_SEARCH__TENANT", "5", "search.tenant", "5"),
        ("M3_SEARCH__PRINCIPALS", "staff, lab", "search.principals", ("staff", "lab")),
        ("M3_SEARCH__PRINCIPALS", '["a,b"]', "search.principals", ("a,b",)),
        ("M3_MODEL__THREADS", "2", "model.threads", 2),
        ("M3_MODEL__THREADS", "", "model.threads", None),
        ("M3_STORES__MAIN__KIND", "memory", "stores.main.kind", "memory"),
        ("M3_STORES__MAIN__TEXT", "true", "stores.main.text", True),
        ("M3_SOURCES__MY_DOCS__LANGUAGE", "de", "sources.my-docs.language", "de"),
        ("M3_FIELDS__YEAR", "integer", "fields.year", "integer"),
    ],
)
def test_the_environment_overrides_single_keys(
    tmp_path: Path, variable: str, value: str, key: str, expected: object
) -> None:
    text = MINIMAL.replace("[sources.docs]", "[sources.my-docs]") + '[stores.main]\nkind = "qdrant-edge"\n'
    loaded = load(tmp_path, text, {variable: value})
    values = {".".join(path): found for path, found in flat(loaded.config)}
    assert values[key] == expected
    assert type(values[key]) is type(expected)
    assert loaded.origins[key] == f"environment {variable}"


@pytest.mark.parametrize(
    ("variable", "value", "message", "remedy"),
    [
        (
            "M3_SEARCH__LIMIT",
            "many",
            'environment M3_SEARCH__LIMIT search.limit = "many": must be a whole number',
            "leave it out for the default 10",
        ),
        (
            "M3_SERCH__LIMIT",
            "5",
            "environment M3_SERCH__LIMIT: no such key serch",
            'did you mean "M3_SEARCH__LIMIT"?',
        ),
        (
            "M3_SEARCH__LIMT",
            "5",
            "environment M3_SEARCH__LIMT: no such key search.limt",
            'did you mean "M3_SEARCH__LIMIT"?',
        ),
        ("M3_SEARCH__LIMIT__X", "5", "environment M3_SEARCH__LIMIT__X: no such key search.limit.x", "unset it"),
        (
            "M3_STORES__MAIN__KIND",
            "memry",
            'environment M3_STORES__MAIN__KIND stores.main.kind = "memry": no such store',
            'did you mean "memory"?',
        ),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, variable: str, value: str, message: str, remedy: str) -> None:
    assert refused(tmp_path, MINIMAL, {variable: value}) == (message, remedy)


def test_variables_without_a_double_underscore_are_not_overrides(tmp_path: Path) -> None:
    env = {"M3_HOME": "/somewhere", "M3_CONFIG": "x.toml", "M3_SEARCH_LIMIT": "5", "HOME": "/x"}
    assert load(tmp_path, MINIMAL, env).config == load(tmp_path, MINIMAL).config


# --- any configuration, written and read ---

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    source = st.fixed_dictionaries(
        {"kind": st.sampled_from(["folder", "jsonl", "parquet"]), "path": texts},
        optional={
            "tenant": texts,
            "acl": st.none() | st.lists(texts, max_size=3).map(tuple),
            "language": st.text(max_size=5),
            "max_document_bytes": st.integers(1, 1 << 30),
        },
    )
    values = {
        "collection": {"name": draw(names)},
        "sources": draw(st.dictionaries(names, source, min_size=1, max_size=3)),
        "fields": draw(
            st.dictionaries(
                texts.filter(lambda name: name not in RESERVED_FIELDS),
                st.sampled_from(["string", "strings", "integer", "number", "boolean"]),
                max_size=3,
            )
        ),
        "stores": {draw(names): {"kind": draw(st.sampled_from(KINDS)), "signals": ("dense", "multi")}},
        "search": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "limit": st.integers(1, 1000),
                    "timeout": st.floats(0.001, 300),
                    "principals": st.lists(texts, max_size=3).map(tuple),
                },
            )
        ),
    }
    return Config.model_validate(values)


def written(config: Config) -> str:
    """Every key on a line of its own, dotted."""
    lines = [
        f"{'.'.join(map(toml_key, path))} = {toml_value(value)}" for path, value in flat(config) if value is not None
    ]
    return "\n".join(lines) + "\n"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations())
def test_any_configuration_written_as_toml_reads_back_equal_with_its_lines(tmp_path: Path, config: Config) -> None:
    text = written(config)
    loaded = load(tmp_path, text)
    assert loaded.config == config
    for number, path in enumerate((path for path, value in flat(config) if value is not None), start=1):
        origin = loaded.origins[".".join(path)] if not _unusual(path) else None
        assert origin in (None, f"{tmp_path}/m3.toml:{number}")


def _unusual(path: tuple[str, ...]) -> bool:
    """A free name with a dot or a control character: its dotted form is not unique."""
    return not all(part.isidentifier() for part in path)
