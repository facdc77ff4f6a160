"""Where the database is: DATABASE_URL, or else the bundled one in DATA_DIR."""

from backend.settings import Settings
from backend.store import bundled


def database_address(settings: Settings) -> str:
    return settings.database_url or bundled.dsn(settings.data_dir)
