#!/usr/bin/env python3
"""What came as never to be indexed, by the packages h2 and hpack at both ends.

Prints the port of an upstream without TLS, reads HOST:PORT of the node before it, asks that three times over one connection (the third
time nothing is secret, nor is it in the answers to that), and prints for each a line of JSON: the names that came as never indexed to the upstream, and those that came back.
"""
import json, socket, threading

import h2.config, h2.connection, h2.events
from hpack import HeaderTuple, NeverIndexedHeaderTuple

came = []


def secrets(headers):
    return sorted(field[0].decode() for field in headers if isinstance(field, NeverIndexedHeaderTuple))


def drive(peer, connection, act):
    """Has `act` look at each event until it says something."""
    peer.sendall(connection.data_to_send())
    while data := peer.recv(65536):
        for event in connection.receive_data(data):
            if (found := act(event)) is not None:
                return found
        peer.sendall(connection.data_to_send())


def serve(listener):
    peer, _ = listener.accept()
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()

    def act(event):
        if isinstance(event, h2.events.RequestReceived):
            came.append(secrets(event.headers))
            kind = NeverIndexedHeaderTuple if came[-1] else HeaderTuple
            fields = [(b":status", b"200"), kind(b"x-reply-token", b"secret")]
            connection.send_headers(event.stream_id, fields)
            connection.send_headers(event.stream_id, [kind(b"x-end-token", b"secret")], end_stream=True)

    drive(peer, connection, act)


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
print(listener.getsockname()[1], flush=True)
host, port = input().rsplit(":", 1)
peer = socket.create_connection((host, int(port)), timeout=20)
connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
connection.initiate_connection()
for stream in (1, 3, 5):
    fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"localhost"), (b":path", b"/two/a")]
    kind = NeverIndexedHeaderTuple if stream < 5 else HeaderTuple
    fields += [(b"te", b"trailers"), kind(b"x-token", b"secret"), kind(b"accept", b"secret")]
    connection.send_headers(stream, fields, end_stream=True)
    answered = []

    def hear(event):
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            answered.extend(event.headers)
        return True if isinstance(event, h2.events.StreamEnded) else None

    drive(peer, connection, hear)
    assert (b":status", b"200") in [tuple(field) for field in answered], answered
    print(json.dumps([came[-1], secrets(answered)]), flush=True)
