"""The logins that new connections to Redis and to its Sentinels use.

A login can change while the gateway runs: `adopt` takes another URL, and `refresh`, if set, is awaited before each
login, so that it can read the URL anew. Several logins are possible during a password rotation: the previous one still
holds where the server does not have the new one yet. A refused login makes the next connection try the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from gateway.config.store_url import Login, StoreUrl

_NO_LOGIN = Login()


class Credentials(CredentialProvider):
    """The logins of one kind of server, the preferred one first."""

    def __init__(self, logins: Iterable[Login]) -> None:
        self.logins = tuple(dict.fromkeys(logins))
        self._chosen = 0
        self.refresh: Callable[[], Awaitable[None]] | None = None

    @property
    def login(self) -> Login:
        """The login of the next connection."""
        return self.logins[self._chosen]

    def offer(self, logins: Iterable[Login]) -> None:
        """Prefer these logins from the next connection on."""
        self.logins = tuple(dict.fromkeys(logins))
        self._chosen = 0

    def reject(self, login: Login) -> None:
        """Choose another login after a server refused this one. Connections that failed together count once."""
        if login == self.login:
            self._chosen = (self._chosen + 1) % len(self.logins)

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the arguments of AUTH; none where no login is configured."""
        username, password = self.login
        return (username, password) if username else (password,) if password else ()

    async def get_credentials_async(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the same."""
        return self.get_credentials()

    async def greet(self, connection: Any) -> None:
        """Set up a new connection: log in, and choose another login if this one is refused."""
        try:
            if self.refresh is not None:
                await self.refresh()
            tried = self.login
            try:
                await connection.on_connect()
                if await connection.can_read():  # without a login nothing was read yet
                    await connection.read_response()  # raises what the server has against a connection
            except AuthenticationError:
                self.reject(tried)
                raise
        except asyncio.CancelledError:
            # redis-py would put the connection into its pool, open and not logged in.
            await connection.disconnect(nowait=True)
            raise


class StoreCredentials:
    """The logins of a store: `server` is Redis, or each node of a Cluster. Each Sentinel has its own."""

    def __init__(self, url: StoreUrl) -> None:
        self._url = url
        self.server = Credentials([url.login])
        self._sentinels: list[Credentials] = []

    def for_sentinel(self) -> Credentials:
        """Return the logins of one Sentinel: they may differ in whether they have a password."""
        credentials = Credentials(_sentinel_logins(self._url))
        self._sentinels.append(credentials)
        return credentials

    def adopt(self, url: StoreUrl) -> bool:
        """Use the logins of another URL of the same store, and the previous ones where they are refused.

        Return whether that changed anything. Raises ValueError if the URL names another store.
        """
        if url.without_logins() != self._url.without_logins():
            raise ValueError("names another store; restart the gateway to use it")
        if url == self._url:
            return False
        self.server.offer([url.login, self._url.login])
        for credentials in self._sentinels:
            credentials.offer([*_sentinel_logins(url), *_sentinel_logins(self._url)])
        self._url = url
        return True

    def refresh_with(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Await this before each login."""
        for credentials in (self.server, *self._sentinels):
            credentials.refresh = refresh


def _sentinel_logins(url: StoreUrl) -> tuple[Login, ...]:
    # Many Sentinels have no password while their master has one; they refuse any login then.
    return (url.sentinel_login,) if url.sentinel_login is not None else (url.login, _NO_LOGIN)
