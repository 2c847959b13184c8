"""The name server of the test's world: what every name points to, and what was asked."""

import asyncio
import collections
import ipaddress
import struct

A, CNAME, AAAA = 1, 5, 28
NXDOMAIN = 3

GOOD, GOOD_TOO, EVIL, CDN = "93.184.1.1", "93.184.1.2", "93.184.2.2", "93.184.3.3"
GOOD_6, EVIL_6 = "2600:5e1f:1::1", "2600:5e1f:2::2"
# Nobody's business from inside: a neighbour, the metadata of a cloud. In this world both answer whoever comes.
PRIVATE, METADATA = "10.0.0.5", "169.254.169.254"
# Private too, but the operator has opened it.
OPENED = "10.9.9.9"
FOREIGN_RESOLVER = "8.8.8.8"

LONG_S, NOT_KEPT_S = 60, 0


class Names:
    """Answers questions from a table. A name may have several answers, which are given one after the other."""

    def __init__(self):
        self.asked = collections.Counter()
        self.table = {
            "good.test": [[GOOD]],
            "*.good.test": [[GOOD]],
            "evil.test": [[EVIL, EVIL_6]],
            "*.evil.test": [[EVIL]],
            "mail.test": [[GOOD]],
            "db.test": [[GOOD]],
            "socks.test": [[GOOD_TOO]],
            "good.test.evil.test": [[EVIL]],
            "xgood.test": [[EVIL]],
            "six.test": [[GOOD_6]],
            "both.test": [[GOOD, GOOD_6]],
            "several.test": [[GOOD, GOOD_TOO]],
            "fine.cdn.test": [[CDN]],
            "foul.cdn.test": [[CDN]],
            "alias.test": [["good.test", GOOD]],
            "zero.test": [[GOOD]],
            "opened.test": [[OPENED]],
            "private.test": [[PRIVATE]],
            "alias-private.test": [["private.test", PRIVATE]],
            "half.test": [[GOOD, PRIVATE]],
            "metadata.test": [[METADATA]],
            "mapped.test": [["::ffff:10.0.0.5"]],
            "nat64.test": [["64:ff9b::a00:5"]],
            "rebind.test": [[GOOD], [PRIVATE]],
            "moving.test": [[GOOD], [EVIL]],
            # b\u00fccher.test in the form that travels.
            "xn--bcher-kva.test": [[EVIL]],
        }
        self.not_kept = {"zero.test", "rebind.test", "moving.test"}

    def records(self, name, kind):
        """The records of a name, or None when there is no such name."""
        answers = self.table.get(name) or self.table.get("*." + name.split(".", 1)[-1])
        if answers is None:
            return None
        turn = min(self.asked[name], len(answers) - 1)
        self.asked[name] += kind == A
        found = []
        for value in answers[turn]:
            try:
                address = ipaddress.ip_address(value)
            except ValueError:
                found.append((CNAME, encoded(value)))
                continue
            if (address.version == 4) == (kind == A) and kind in (A, AAAA):
                found.append((kind, address.packed))
        return found

    def reply(self, question):
        """The answer to a packet, and the name that it asks for."""
        id, _, count = struct.unpack_from("!HHH", question)
        if count != 1:
            return None, ""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
            at += 1 + question[at]
        kind = struct.unpack_from("!H", question, at + 1)[0]
        name = ".".join(labels).lower()
        records = self.records(name, kind)
        ttl = NOT_KEPT_S if name in self.not_kept else LONG_S
        flags = 0x8580 | (NXDOMAIN if records is None else 0)
        out = struct.pack("!HHHHHH", id, flags, 1, len(records or []), 0, 0) + question[12 : at + 5]
        owner = b"\xc0\x0c"
        for of, data in records or []:
            out += owner + struct.pack("!HHIH", of, 1, ttl, len(data)) + data
            # What comes after an alias is of the name that it leads to.
            owner = data if of == CNAME else owner
        return out, f"{name} {kind}"


def encoded(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, names, record):
        self.names, self.record = names, record

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, packet, sender):
        reply, asked = self.names.reply(packet)
        self.record(f"udp {asked}")
        if reply:
            self.transport.sendto(reply, sender)


async def serve(names, address, record):
    """Answers at an address, by UDP and TCP."""
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Datagrams(names, record), local_addr=(address, 53))

    async def stream(reader, writer):
        try:
            while True:
                size = struct.unpack("!H", await reader.readexactly(2))[0]
                reply, asked = names.reply(await reader.readexactly(size))
                record(f"tcp {asked}")
                writer.write(struct.pack("!H", len(reply)) + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    await asyncio.start_server(stream, address, 53)
