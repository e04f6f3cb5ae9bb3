"""The types with which parts declare their settings."""

from __future__ import annotations

from typing import Annotated

from insightdesk_rt.engine.rate_limits import ANY
from insightdesk_rt.engine.secret import Secret
from insightdesk_rt.engine.settings import Count, CountLimit, FeatureSettings, Help, SettingsPart, has_no_limit


class SampleSettings(SettingsPart, frozen=True):
    max_things: Annotated[CountLimit, Help("things; 0: any number")] = 10
    max_others: Annotated[Count, Help("others; 0 is none")] = 0
    sample_secret: Annotated[Secret, Help("a secret")] = Secret()


def test_a_limit_of_0_becomes_a_number_that_is_never_reached() -> None:
    part = SampleSettings(max_things=0)
    assert part.max_things == ANY and has_no_limit(part, "max_things")
    assert part.max_others == 0 and not has_no_limit(part, "max_others")
    assert not has_no_limit(SampleSettings(), "max_things")


def test_the_text_of_a_secret_becomes_a_secret() -> None:
    part = SampleSettings(sample_secret="hunter2")  # type: ignore[arg-type]
    assert isinstance(part.sample_secret, Secret) and "hunter2" not in repr(part)


def test_a_feature_finds_its_settings_by_their_class() -> None:
    assert FeatureSettings().of(SampleSettings) == SampleSettings()
    assert FeatureSettings({SampleSettings: SampleSettings(5)}).of(SampleSettings).max_things == 5
