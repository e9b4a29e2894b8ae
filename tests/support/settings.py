"""Settings with other values."""

from typing import Any

from tamatar_auth.config.groups import all_settings
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import ENV_PREFIX

PATHS = {
    variable.removeprefix(ENV_PREFIX).lower(): setting.path
    for setting in all_settings(Settings)
    for variable in setting.variables[:1]
}


def changed(settings: Settings, **values: Any) -> Settings:
    """Return settings with other values, which are not checked.

    `pool_size=1` stands for `TAMATAR_POOL_SIZE`, whatever group the setting is in.
    """
    for name, value in values.items():
        group, _, field = PATHS[name].rpartition(".")
        update: dict[str, Any] = {field: value}
        if group:
            update = {group: getattr(settings, group).model_copy(update=update)}
        settings = settings.model_copy(update=update)
    return settings
