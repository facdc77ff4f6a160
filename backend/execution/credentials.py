"""Which credentials a run begins with: one for each slot of its graph, looked at before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from backend.graphs.credentials import REFERENCE, Kind, Slot, Use, covers
from backend.graphs.faults import printable
from backend.graphs.json_types import object_in
from backend.graphs.validation import Problem
from backend.store import credentials
from backend.store.clock import CLOCK
from backend.store.connection import Queryable
from backend.store.credentials import StoredCredential

# {slot: {id, provider, type, …}}, and {node id: {pin: value}}.
References = Mapping[str, Mapping[str, Any]]
Masks = Mapping[str, Mapping[str, Any]]

# Those that are named where none was given.
NAMED = 5


async def look_up(database: Queryable, user_id: UUID, choices: Iterable[Choice]) -> None:
    """Look at the credentials of a user, once for all that are to be chosen."""
    choices = list(choices)
    ids = {id for choice in choices for id in choice.ids()}
    providers = {provider for choice in choices for slot in choice.slots for provider in slot.kind.providers}
    found = await credentials.candidates(database, user_id, ids, providers) if ids or providers else []
    theirs = {each.id: each for each in found}
    for choice in choices:
        choice.theirs = theirs


async def fitting(database: Queryable, user_id: UUID, wanted: Iterable[Slot]) -> dict[str, list[StoredCredential]]:
    """The credentials of a user that fit each slot, newest first."""
    wanted = list(wanted)
    providers = {provider for slot in wanted for provider in slot.kind.providers}
    theirs = await credentials.candidates(database, user_id, (), providers) if providers else []
    return {slot.key: [each for each in theirs if unfit(each, slot.kind) is None] for slot in wanted}


def unfit(credential: StoredCredential, kind: Kind) -> str | None:
    """Why the credential cannot be used there, as the end of a sentence."""
    if credential.provider not in kind.providers:
        return f"is for {credential.provider}, not for {' or '.join(kind.providers)}"
    if credential.type not in kind.types:
        return f"is of the type {credential.type}, not {' or '.join(kind.types)}"
    if credential.host and kind.host and not covers(credential.host, kind.host):
        return f"is for the host {credential.host}, not for {kind.host}"
    if credential.expires_at and credential.expires_at <= CLOCK.now():
        return f"has expired, on {credential.expires_at:%Y-%m-%d at %H:%M} UTC: create a new one"
    return None


def id_in(reference: object) -> UUID | None:
    """The id in a reference to a credential."""
    try:
        return UUID(object_in(reference)["id"])
    except (KeyError, ValueError, AttributeError, TypeError):
        return None


class Choice:
    """What is given for the slots of a graph. `theirs` are the credentials of the user that are looked at for it."""

    def __init__(self, slots: Sequence[Slot], given: References, masks: Masks) -> None:
        self.slots = slots
        self.theirs: Mapping[UUID, StoredCredential] = {}
        self._given = given
        self._masks = masks

    def ids(self) -> set[UUID]:
        own = [self._own(use) for slot in self.slots for use in slot.uses]
        return {id for each in (*self._given.values(), *own) if (id := id_in(each))}

    def kept(self) -> dict[str, Any]:
        return {
            slot.key: {key: self._given[slot.key].get(key) for key in REFERENCE}
            | {"nodes": {use.node.id: use.pin for use in slot.uses}}
            for slot in self.slots
            if slot.key in self._given
        }

    def problems(self) -> Iterable[Problem]:
        known = {slot.key for slot in self.slots}
        for key in self._given.keys() - known:
            listed = ", ".join(f"`{each}`" for each in sorted(known)) or "none"
            yield _problem("unknown_credentials", key, f"are none of this agent's: there is {listed}")
        for slot in self.slots:
            if reason := self._reason(slot):
                yield reason

    def _reason(self, slot: Slot) -> Problem | None:
        if slot.key in self._given:
            return self._wrong(slot, self._given[slot.key], None)
        for use in slot.uses:
            if own := self._own(use):
                if wrong := self._wrong(slot, own, use):
                    return wrong
            elif slot.required:
                return self._missing(slot, use)
        return None

    def _own(self, use: Use) -> Any:
        """What the node has for itself."""
        mask = self._masks.get(use.node.id, {})
        return mask[use.pin] if use.pin in mask else use.node.input_default.get(use.pin)

    def _wrong(self, slot: Slot, reference: Mapping[str, Any], use: Use | None) -> Problem | None:
        id = id_in(reference)
        credential = self.theirs.get(id) if id else None
        if credential is None:
            if use and use.node.id not in self._masks:  # of who made the agent, perhaps
                return self._missing(slot, use) if slot.required else None
            told = printable(str(reference.get("id"))[:80])
            return _problem("unknown_credentials", slot.key, f"are not there: you have no credential {told}")
        claimed = {key: reference[key] for key in ("provider", "type") if key in reference}
        if any(value != getattr(credential, key) for key, value in claimed.items()):
            reason = f"is for {credential.provider} and of the type {credential.type}, not as the reference says"
        else:
            reason = unfit(credential, slot.kind)
        if reason is None:
            return None
        return _problem("invalid_credentials", slot.key, f"cannot be used: {_name(credential)} {reason}")

    def _missing(self, slot: Slot, use: Use) -> Problem:
        fit = [each for each in self.theirs.values() if unfit(each, slot.kind) is None]
        named = ", ".join(map(_name, fit[:NAMED]))
        which = f"of yours, {named} would fit" if fit else "none of yours fits, so create one first"
        node = printable(use.node.name or use.node.id)[:80]
        return _problem("missing_credentials", slot.key, f"are missing, which the node {node} needs: {which}", use)


def _problem(code: str, key: str, reason: str, use: Use | None = None) -> Problem:
    key = printable(key[:200])
    node_id = use.node.id if use else None
    return Problem(code=code, message=f"The credentials `{key}` {reason}.", pin=key, node_id=node_id)


def _name(credential: StoredCredential) -> str:
    return f"“{credential.title}” ({credential.id})" if credential.title else str(credential.id)
