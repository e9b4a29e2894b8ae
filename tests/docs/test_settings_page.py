"""The page of settings: generated, complete and up to date."""

from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tools.settings_page import PAGE, page


def test_settings_page_is_up_to_date():
    assert PAGE.read_text() == page()


def test_settings_page_lists_every_setting_once():
    text = PAGE.read_text()

    for setting in all_settings(Settings):
        assert text.count(f"\n| `{setting.variable}` | ") == 1


def test_settings_are_at_most_48():
    assert len(list(all_settings(Settings))) <= 48
