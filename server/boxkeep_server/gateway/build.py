"""Puts the gateway together from the parts of the control plane."""

from boxkeep_server.gateway.entrance import Entrance
from boxkeep_server.gateway.listener import Gateway
from boxkeep_server.gateway.room import Room
from boxkeep_server.gateway.vigil import Vigil
from boxkeep_server.gateway.visitor import Doors
from boxkeep_server.settings import ControlSettings
from boxkeep_server.web.parts import Parts


def doors_of(parts: Parts, *, believed: bool) -> Doors:
    """What visitors pass through."""
    entrance = Entrance(parts.keys, parts.tokens, parts.previews, parts.preview_urls)
    return Doors(
        urls=parts.preview_urls,
        entrance=entrance,
        vigil=Vigil(entrance.holds),
        previews=parts.previews,
        presence=parts.presence,
        room=Room(),
        believed=believed,
    )


def gateway_over(parts: Parts, settings: ControlSettings) -> Gateway:
    """The gateway of an instance, on its port."""
    doors = doors_of(parts, believed=settings.preview_url is not None)
    return Gateway(doors, settings.listen, settings.preview_port)
