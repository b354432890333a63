from __future__ import annotations

from pydantic import BaseModel

from m3core.config.model import Config


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found += sections(candidate)
    return found


def test_every_key_has_a_description_for_the_schema() -> None:
    for section in sections(Config)[1:]:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_every_section_is_frozen_and_refuses_unknown_keys() -> None:
    for section in sections(Config):
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"
