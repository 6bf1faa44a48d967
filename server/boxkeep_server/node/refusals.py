"""What the node API refuses, as one tree of errors with the codes of its page.

NodeRefusal
├── Malformed      400 bad_request
├── Stranger       403 forbidden
├── NoSuchClaim    404 not_found
├── OlderEpoch     409 conflict
├── ClaimIsDead    409 conflict
├── Busy           409 busy
├── Unfit          409 unfit
├── EpochReleased  410 released
├── NoRoom         503 no_room
├── NotYet         503 not_ready
├── NoSpace        507 no_space
├── Unsupported    501 unsupported
└── Broken         500 internal
"""

from typing import ClassVar

from boxkeep_server.model.node_api import RefusalCode


class NodeRefusal(Exception):
    """A refusal with a sentence for the control plane."""

    status: ClassVar[int]
    code: ClassVar[RefusalCode]


class Malformed(NodeRefusal):
    """The message is not one of this API."""

    status, code = 400, "bad_request"


class Stranger(NodeRefusal):
    """The peer is neither root nor the service's account."""

    status, code = 403, "forbidden"


class NoSuchClaim(NodeRefusal):
    """Nothing is bound so."""

    status, code = 404, "not_found"


class OlderEpoch(NodeRefusal):
    """A later epoch of the sandbox is bound here."""

    status, code = 409, "conflict"


class ClaimIsDead(NodeRefusal):
    """The machine is dead, and its end cannot be changed."""

    status, code = 409, "conflict"


class Busy(NodeRefusal):
    """Something runs in the machine or somebody is being served, and it goes on."""

    status, code = 409, "busy"


class Unfit(NodeRefusal):
    """What was kept is damaged, or cannot be gone on from on this node; it stays as it is."""

    status, code = 409, "unfit"


class EpochReleased(NodeRefusal):
    """This epoch was released already."""

    status, code = 410, "released"


class NoRoom(NodeRefusal):
    """Every slot is taken, or memory is short."""

    status, code = 503, "no_room"


class NotYet(NodeRefusal):
    """It did not come about in time, and nothing of it is left; it may be asked for again."""

    status, code = 503, "not_ready"


class NoSpace(NodeRefusal):
    """The disks have no room for what would be kept; the machine goes on."""

    status, code = 507, "no_space"


class Unsupported(NodeRefusal):
    """This node cannot do that."""

    status, code = 501, "unsupported"


class Broken(NodeRefusal):
    """It failed here, and nothing of it is left."""

    status, code = 500, "internal"
