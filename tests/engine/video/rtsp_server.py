"""A small RTSP server: motion JPEG (RFC 2435) in the connection itself, as FFmpeg asks for it."""

import socketserver
import struct
import threading
import time
from contextlib import contextmanager

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
_RATE = 50
_DESCRIPTION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{range}"
    f"m=video 0 RTP/AVP 26\r\na=framerate:{_RATE}\r\na=control:video\r\n"
)


@contextmanager
def served(*, frames, then="close", duration=None):
    """The address of a stream of `frames` gray images, number n of brightness 4 n.

    Args:
        then: after them, `close` the connection or stay `silent`.
        duration: the length in seconds that the server claims; None: live.
    """

    class Connection(_Connection):
        num_frames, ending, seconds = frames, then, duration

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
    server.daemon_threads = True
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/live"
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class _Connection(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline().decode():
            method, address, _ = line.split()
            fields = {}
            while field := self.rfile.readline().decode().strip():
                key, _, value = field.partition(":")
                fields[key.lower()] = value.strip()
            if method == "PLAY":
                self.reply(fields, "Session: 1\r\nRange: npt=0-\r\n")
                return self.play()
            self.answer(method, address, fields)

    def answer(self, method, address, fields):
        if method == "DESCRIBE" and not address.endswith("/live"):
            self.reply(fields, status="404 Not Found")
        elif method == "DESCRIBE":
            length = "" if self.seconds is None else f"a=range:npt=0-{self.seconds}\r\n"
            self.reply(fields, "Content-Type: application/sdp\r\n", _DESCRIPTION.format(range=length))
        elif method == "SETUP":
            self.reply(fields, "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n")
        else:
            self.reply(fields, "Public: DESCRIBE, SETUP, PLAY\r\n")

    def reply(self, fields, lines="", body="", status="200 OK"):
        head = f"RTSP/1.0 {status}\r\nCSeq: {fields['cseq']}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self.wfile.write((head + body).encode())

    def play(self):
        for number in range(self.num_frames):
            image = np.full((HEIGHT, WIDTH, 3), min(4 * number, 250), np.uint8)
            payload = _payload(cv2.imencode(".jpg", image)[1].tobytes())
            packet = struct.pack(">BBHII", 0x80, 0x80 | 26, number, 90000 // _RATE * number, 1) + payload
            try:
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            except OSError:  # the client is gone
                return
            time.sleep(1 / _RATE)
        if self.ending == "silent":
            self.server.over.wait(60)


def _payload(jpeg):
    """The RTP payload of a JPEG file with 4:2:0 sampling: its quantization tables and its scan."""
    tables, place = b"", 2
    while True:
        marker, length = struct.unpack(">HH", jpeg[place : place + 4])
        content = jpeg[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xFFDB:
            tables += b"".join(content[start + 1 : start + 65] for start in range(0, len(content), 65))
        if marker == 0xFFDA:
            break
    head = struct.pack(">IBBBB", 0, 1, 255, WIDTH // 8, HEIGHT // 8)
    return head + struct.pack(">BBH", 0, 0, len(tables)) + tables + jpeg[place:]
