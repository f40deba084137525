"""A connection of paramiko's whose channels end in order."""

from __future__ import annotations

from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_CLOSE


class Connection(paramiko.Transport):
    """A transport that sends nothing of a channel any more after its CLOSE.

    paramiko makes a channel's message under the channel's lock and sends it after: an end of file that one thread has
    made may follow a CLOSE of another's, and sshd ends the whole connection for it ("ieof packet referred to
    nonexistent channel"). Happens to programs that end as soon as they begin. Source: paramiko's issue 1115.
    """

    def open_channel(self, *args: Any, **kwargs: Any) -> paramiko.Channel:
        channel = super().open_channel(*args, **kwargs)
        channel._set_transport(_Ordered(self))  # type: ignore[attr-defined]  # the stubs leave it out
        return channel

    def _send_message(self, data: paramiko.Message) -> None:
        # Of a channel's messages, one is sent at a time: whoever sends holds `clear_to_send_lock`.
        channel = getattr(data, "channel", None)
        if channel is not None:
            if channel.closed:
                return
            channel.closed = data.asbytes()[:1] == cMSG_CHANNEL_CLOSE
        super()._send_message(data)  # type: ignore[misc]  # the stubs leave it out


class _Ordered:
    """A transport, as one of its channels sees it: it knows whose messages are whose."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _send_user_message(self, data: Any) -> None:
        data.channel = self
        self._connection._send_user_message(data)  # type: ignore[attr-defined]  # the stubs leave it out
