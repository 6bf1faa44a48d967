"""What only the inside of a sandbox is to know: its environment, and the password of its browser's proxy; sealed."""

import orjson

from boxkeep_server.model.sandboxes import NewSandbox
from boxkeep_server.store import sandboxes
from boxkeep_server.store.database import Database
from boxkeep_server.store.sealing import Seal


class Secrets:
    """Seals it for the store, which keeps it until the sandbox is over, and opens it again."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal

    def sealed(self, wish: NewSandbox, sandbox_id: str) -> sandboxes.Sealed:
        """What a new sandbox is to have, sealed."""
        env = self._seal.close(orjson.dumps(dict(wish.env)), sandbox_id) if wish.env else None
        url = wish.proxy_url
        return sandboxes.Sealed(env, None if url is None else self._seal.close(url.encode(), _proxy_of(sandbox_id)))

    async def proxy_url(self, sandbox_id: str) -> str | None:
        """The URL, with its password, of the proxy of a sandbox's browser; None where that has no password.

        Raises:
            SealBroken: it was sealed under another key file.
        """
        async with self._database.reading() as connection:
            sealed = (await sandboxes.sealed(connection, sandbox_id)).proxy
        return None if sealed is None else self._seal.open(sealed, _proxy_of(sandbox_id)).decode()


def _proxy_of(sandbox_id: str) -> str:
    return f"{sandbox_id} proxy"
