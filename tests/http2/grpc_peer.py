"""A gRPC server and client of grpcio (a C core of its own), in the clear, for `tests/heavier http2-interop`. Messages are bytes.

    grpc_peer.py server ADDRESS
    grpc_peer.py client ADDRESS   prints a line for each check; exits with 1 if one failed
"""

import hashlib
import sys
import threading
import time
from concurrent import futures

import grpc

LARGE = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
# Calls of Endless that have ended.
ended_calls = []


def unary(request, context):
    context.set_trailing_metadata((("x-sum", hashlib.sha256(request).hexdigest()), ("x-raw-bin", b"\0\xff")))
    return request


def fails(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: " + request.decode())


def sleeps(request, context):
    time.sleep(float(request))
    return b"late"


def downloads(request, context):
    count, length = map(int, request.split())
    for _ in range(count):
        yield b"x" * length


def uploads(requests, context):
    return b"%d" % sum(map(len, requests))


def echoes(requests, context):
    yield from requests


def endless(request, context):
    ended = threading.Event()

    def end():
        ended_calls.append(True)
        ended.set()

    context.add_callback(end)
    yield b"begun"
    ended.wait(30)


def cancels(request, context):
    return b"%d" % len(ended_calls)


def serve(address):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Sleeps": grpc.unary_unary_rpc_method_handler(sleeps),
        "Downloads": grpc.unary_stream_rpc_method_handler(downloads),
        "Uploads": grpc.stream_unary_rpc_method_handler(uploads),
        "Echoes": grpc.stream_stream_rpc_method_handler(echoes),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Cancels": grpc.unary_unary_rpc_method_handler(cancels),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=150), options=LARGE)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", handlers),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


class Client:
    def __init__(self, address):
        channel = grpc.insecure_channel(address, options=LARGE)
        method = lambda kind, name: getattr(channel, kind)("/test.Peer/" + name)
        self.unary = method("unary_unary", "Unary")
        self.fails = method("unary_unary", "Fails")
        self.sleeps = method("unary_unary", "Sleeps")
        self.cancels = method("unary_unary", "Cancels")
        self.missing = method("unary_unary", "Missing")
        self.downloads = method("unary_stream", "Downloads")
        self.endless = method("unary_stream", "Endless")
        self.uploads = method("stream_unary", "Uploads")
        self.echoes = method("stream_stream", "Echoes")

    def check_unary(self):
        for length in (0, 1, 16384, 70000, 4 << 20):
            message = bytes(length)
            answer, call = self.unary.with_call(message)
            trailers = dict(call.trailing_metadata())
            assert answer == message and trailers["x-sum"] == hashlib.sha256(message).hexdigest(), length
            assert trailers["x-raw-bin"] == b"\0\xff"

    def check_compressed_unary(self):
        assert self.unary(bytes(1 << 20), compression=grpc.Compression.Gzip) == bytes(1 << 20)

    def check_status_with_details_and_trailers(self):
        error = refused(lambda: self.fails(b"\xc3\xbc"))
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no: \u00fc"), error
        assert dict(error.trailing_metadata())["x-why"] == "because"

    def check_unknown_method(self):
        assert refused(lambda: self.missing(b"")).code() == grpc.StatusCode.UNIMPLEMENTED

    def check_deadline(self):
        assert refused(lambda: self.sleeps(b"5", timeout=0.3)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert self.unary(b"on") == b"on"

    def check_server_streaming(self):
        for count, length in ((1000, 10), (20, 1 << 20)):
            messages = list(self.downloads(b"%d %d" % (count, length)))
            assert len(messages) == count and all(len(message) == length for message in messages)

    def check_client_streaming(self):
        assert self.uploads(iter([b"x" * 10] * 1000 + [bytes(1 << 20)] * 8)) == b"%d" % (10000 + (8 << 20))

    def check_bidirectional_ping_pong(self):
        answered = threading.Semaphore(1)

        def balls():
            for at in range(1000):
                answered.acquire()
                yield b"%d" % at

        for at, ball in enumerate(self.echoes(balls())):
            assert ball == b"%d" % at
            answered.release()
        assert at == 999

    def check_metadata(self):
        metadata = [("x-%d" % at, "v" * 100) for at in range(40)]
        assert self.unary(b"", metadata=metadata) == b""

    def check_cancels_of_streams(self):
        before = int(self.cancels(b""))
        calls = [self.endless(b"") for _ in range(100)]
        for call in calls:
            assert next(call) == b"begun"
            call.cancel()
        for _ in range(100):
            if int(self.cancels(b"")) - before == 100:
                return
            time.sleep(0.05)
        raise AssertionError("%d of 100 ended at the server" % (int(self.cancels(b"")) - before))

    def check_100_calls_at_a_time(self):
        calls = [self.unary.future(b"%d" % at * 1000) for at in range(100)]
        assert all(call.result() == b"%d" % at * 1000 for at, call in enumerate(calls))

    def check_1000_calls_one_after_another(self):
        assert all(self.unary(b"%d" % at) == b"%d" % at for at in range(1000))


def refused(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def check_all(address):
    client, failed = Client(address), False
    for name in [name for name in vars(Client) if name.startswith("check_")]:
        try:
            getattr(client, name)()
            print("ok", name[len("check_") :])
        except Exception as error:  # Whatever it is, the next checks are made too.
            failed = True
            print("FAILED %s: %r" % (name, error))
    return failed


if sys.argv[1] == "server":
    serve(sys.argv[2])
else:
    sys.exit(check_all(sys.argv[2]))
