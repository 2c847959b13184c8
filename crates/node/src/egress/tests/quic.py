"""A QUIC server that echoes, and a client that says one name and something: for the test beside this file.

quic.py server ADDRESS CERTIFICATE KEY   prints its port
quic.py client ADDRESS PORT NAME [v2]    prints what came back, or `failed`
"""

import asyncio
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicProtocolVersion


class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, end_stream=event.end_stream)
            self.transmit()


async def server(address, certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(certificate, key)
    running = await serve(address, 0, configuration=configuration, create_protocol=Echo)
    print(running._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.sleep(120)


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.back = asyncio.get_running_loop().create_future()
        self.bytes = b""

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.bytes += event.data
            if event.end_stream:
                self.back.set_result(self.bytes)


async def client(address, port, name, version=None):
    configuration = QuicConfiguration(alpn_protocols=["echo"], server_name=name, verify_mode=ssl.CERT_NONE)
    if version == "v2":
        configuration.original_version = QuicProtocolVersion.VERSION_2
        configuration.supported_versions = [QuicProtocolVersion.VERSION_2]
    try:
        async with asyncio.timeout(8):
            async with connect(address, int(port), configuration=configuration, create_protocol=Client, wait_connected=True) as connection:
                sent = b"hello " * 20_000
                connection._quic.send_stream_data(0, sent, end_stream=True)
                connection.transmit()
                print("same" if await connection.back == sent else "different")
    except (TimeoutError, ConnectionError, OSError):
        print("failed")


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    asyncio.run(server(*rest) if role == "server" else client(*rest))
