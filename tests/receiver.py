"""Receives pointsub messages over a plain TCP socket, for the test beside it.

    receiver.py PORT      prints "length crc32" for each message until the end
Written from the documentation of pointsub::message alone.
"""
import socket, struct, sys, zlib

MESSAGE, LARGE, STREAM, CHUNK, END, ABORT, COMMAND = range(7)
PAUSE, RESUME = 1, 2


def crc8(data):
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x2F) & 0xFF if crc & 0x80 else crc << 1
    return crc ^ 0xFF


def exactly(sock, n):
    data = sock.recv(n, socket.MSG_WAITALL) if n else b""
    assert len(data) == n, "the connection ended"
    return data


def header(sock):
    head = exactly(sock, 4)
    assert crc8(head[:3]) == head[3], "damaged header"
    assert head[0] >> 6 == 2, "not version 1"
    kind, bare, packed = head[0] >> 3 & 7, bool(head[0] & 2), bool(head[0] & 1)
    length = struct.unpack(">H", head[1:3])[0]
    if head[0] & 4:
        head += exactly(sock, 12)
        assert zlib.crc32(head[:12]) == struct.unpack(">I", head[12:])[0], "damaged header"
        assert head[4:6] == b"\0\0" and not packed, "a feature this program lacks"
        length |= int.from_bytes(head[6:12], "big") << 16
    return kind, bare, length, head


def receive(sock):
    content, crc, announced = b"", 0, None
    while True:
        kind, bare, length, head = header(sock)
        crc = zlib.crc32(head, crc)
        if kind in (LARGE, STREAM):
            announced = length if kind == LARGE else None
            continue
        if kind == COMMAND:
            assert length in (PAUSE, RESUME), "cancelled"
            continue
        payload = b"" if kind == END else exactly(sock, length)
        crc = zlib.crc32(payload, crc)
        if not bare and (kind != MESSAGE or length > 0):
            assert exactly(sock, 4) == struct.pack(">I", crc), "damaged frame"
        assert kind != ABORT, payload.decode()
        content += payload
        assert kind != END or announced in (None, length) and length == len(content), "lost bytes"
        if kind in (MESSAGE, END):
            return content


if __name__ == "__main__":
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
        while sock.recv(1, socket.MSG_PEEK):
            message = receive(sock)
            print(len(message), zlib.crc32(message), flush=True)
