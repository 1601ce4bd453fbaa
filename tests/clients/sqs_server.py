"""moto's server, with one request at a time in its queues of SQS, each at one moment.

Moto serves requests side by side and guards its queues against nothing: a message that is sent while another one is
deleted is sometimes lost, and a group may stay blocked for ever. Here only the waits of readers are side by side.

It also looks at the clock for each message anew: where two messages of a group have been hidden until almost the same
moment, the later one may be given out because the earlier one was still waiting for it. Here the clock stands while a
reader is answered, and what is hidden no more is free before he is.

    sqs_server.py -H 127.0.0.1 -p PORT

SIGUSR1 ends the time for which what was taken is hidden.
"""

import functools
import signal
import threading
import time

from moto.server import main
from moto.sqs import models
from moto.sqs.models import SQSBackend, sqs_backends

LOOK_SECONDS = 0.02
in_turn = threading.RLock()
clock = models.unix_time_millis
moment = None


def alone(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        with in_turn:
            return method(*args, **kwargs)

    return call


def now():
    return clock() if moment is None else moment


def look(self, queue_name, count, visibility_timeout, message_attribute_names):
    global moment
    with in_turn:
        moment = clock()
        try:
            pending = self.get_queue(queue_name).pending_messages
            pending -= {message for message in pending if message.visible}
            return receive(self, queue_name, count, 0, visibility_timeout, message_attribute_names)
        finally:
            moment = None


def receive_message(self, queue_name, count, wait_seconds_timeout, visibility_timeout, message_attribute_names=None):
    end = time.monotonic() + (wait_seconds_timeout or 0)
    while True:
        found = look(self, queue_name, count, visibility_timeout, message_attribute_names)
        if found or time.monotonic() >= end:
            return found
        time.sleep(LOOK_SECONDS)


def show_all(*_):
    with in_turn:
        backends = [backend for regions in sqs_backends.values() for backend in regions.values()]
        for queue in [queue for backend in backends for queue in backend.queues.values()]:
            for message in queue._messages:
                message.visible_at = 0.0


for name in (
    "create_queue",
    "send_message",
    "send_message_batch",
    "delete_message",
    "delete_message_batch",
    "change_message_visibility",
    "change_message_visibility_batch",
    "get_queue_attributes",
):
    setattr(SQSBackend, name, alone(getattr(SQSBackend, name)))
receive = SQSBackend.receive_message
models.unix_time_millis = now
SQSBackend.receive_message = receive_message

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, show_all)
    main()
