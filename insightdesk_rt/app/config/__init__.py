"""Every setting, typed, with default and help (settings), where its value comes from (sources), what must fit
(checks), the pages made of it (printed).

loaded = config.load(sys.argv[1:], os.environ)      # or ConfigError: a line per problem
loaded.settings.port, loaded.origins["port"]        # 3001, "default"
"""

from insightdesk_rt.app.config.checks import file_misfits
from insightdesk_rt.app.config.printed import as_markdown, as_toml
from insightdesk_rt.app.config.settings import Setting, Settings, changed, compose, flat, table
from insightdesk_rt.app.config.sources import LoadedSettings, load, load_flags, shown, take_flags, unknown
from insightdesk_rt.engine.errors import ConfigError
from insightdesk_rt.engine.secret import printable

__all__ = [
    "ConfigError",
    "LoadedSettings",
    "Setting",
    "Settings",
    "as_markdown",
    "as_toml",
    "changed",
    "compose",
    "file_misfits",
    "flat",
    "load",
    "load_flags",
    "printable",
    "shown",
    "table",
    "take_flags",
    "unknown",
]
