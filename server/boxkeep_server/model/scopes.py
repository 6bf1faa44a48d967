"""Scopes of API keys: what a key without all rights may do."""

from enum import StrEnum


class Scope(StrEnum):
    """One right. A key without any scope has all of them."""

    CREATE = "sandbox_sessions:create"
    READ = "sandbox_sessions:read"
    DELETE = "sandbox_sessions:delete"
    EXEC = "sandbox_sessions:exec"
    FILES = "sandbox_sessions:files"
    MANAGE = "sandbox_sessions:manage"
    BROWSER_CREATE = "browser_sessions:create"
    BROWSER_READ = "browser_sessions:read"
    BROWSER_DELETE = "browser_sessions:delete"
    WEBHOOKS = "webhooks:manage"
    USAGE = "usage:read"


def permits(granted: frozenset[Scope], needed: Scope) -> bool:
    """Whether a key with `granted` may do what asks for `needed`."""
    return not granted or needed in granted
