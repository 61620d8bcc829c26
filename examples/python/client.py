"""A client of the chunk exchange in another language, from docs/protocol.md, sync.proto and docs/format.md alone.

It lists the branches and tags of a database, gets what one of them names, and follows addresses down from there. Nothing that the server
sends is trusted: each chunk must hash to the address that the ref, or the chunk before, has for it.
"""

import argparse
import os
import struct
import sys
from typing import Iterator, NamedTuple

import blake3
import grpc
from pleach.sync.v1 import sync_pb2, sync_pb2_grpc

# docs/protocol.md, "Connecting": more than gRPC takes unless it is told to.
MESSAGE_BYTES_MAX = 5 << 20
# docs/format.md, "What the chunks hold".
KINDS = {1: "node", 2: "blob", 3: "table", 4: "commit", 5: "index"}


class Refused(Exception):
    """What the server sent is not what was asked for."""


class Header(NamedTuple):
    """The header of a chunk, as chunkstore/src/chunk.rs draws it."""

    kind: int
    level: int
    # The addresses that a walk follows, in the order in which steps of a path count them.
    children: list[bytes]
    # Those that are named and never followed.
    weak: list[bytes]


def header_of(chunk: bytes) -> Header:
    if len(chunk) < 16:
        raise Refused("a chunk begins with 16 bytes of header")
    version, kind, level, zero, run_start, run_count, list_count, weak_count = struct.unpack_from("<4B2I2H", chunk)
    if version != 1 or kind == 0 or zero != 0 or weak_count > list_count:
        raise Refused("not a header of format 1")
    body = chunk[16 + 4 * list_count :]
    if len(chunk) < 16 + 4 * list_count or run_start + 32 * run_count > len(body):
        raise Refused("a header that says more than there is")
    offsets = [run_start + 32 * index for index in range(run_count)]
    offsets += struct.unpack_from(f"<{list_count}I", chunk, 16)
    if any(offset + 32 > len(body) for offset in offsets):
        raise Refused("an address outside the body")
    addresses = [body[offset : offset + 32] for offset in offsets]
    strong = len(addresses) - weak_count
    return Header(kind, level, addresses[:strong], addresses[strong:])


class Client:
    """Calls for one database of one server."""

    def __init__(self, server: str, database: str, token: str | None = None):
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
        self.stub = sync_pb2_grpc.SyncStub(grpc.insecure_channel(server, options=options))
        self.database = database
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def watch(self) -> Iterator[dict[str, bytes]]:
        """The branches and tags as they are, by name; and again, all of them, whenever some have changed."""
        request = sync_pb2.WatchRequest(database=self.database)
        refs: dict[str, bytes] = {}
        for answer in self.stub.Watch(request, metadata=self.metadata):
            if answer.whole:
                refs = {}
            for ref in answer.refs:
                if ref.hash:
                    refs[ref.name] = ref.hash
                else:
                    refs.pop(ref.name, None)
            if not answer.more:
                yield dict(refs)

    def get(self, ref: str, commit: bytes, places: list[tuple[list[int], bytes]]) -> list[bytes]:
        """The chunks at these places below a commit: for each, the steps down to it, and the address that it must have."""
        chunks: list[bytes] = []
        while len(chunks) < len(places):
            rest = places[len(chunks) :][:1024]
            request = sync_pb2.GetRequest(database=self.database, ref=ref, commit=commit)
            for steps, _ in rest:
                request.paths.add(steps=steps)
            answer = self.stub.Get(request, metadata=self.metadata).chunks
            if not 1 <= len(answer) <= len(rest):
                raise Refused("not as many chunks as were asked for")
            for chunk, (_, address) in zip(answer, rest):
                if blake3.blake3(chunk).digest() != address:
                    raise Refused(f"what came for {address.hex()} has another hash")
                chunks.append(chunk)
        return chunks


def show(steps: list[int], chunk: bytes) -> None:
    header = header_of(chunk)
    place = "/".join(map(str, steps)) or "."
    kind = KINDS.get(header.kind, str(header.kind))
    address = blake3.blake3(chunk).hexdigest()
    counts = f"{len(header.children)} children\t{len(header.weak)} weak"
    print(f"{place}\t{kind}\tlevel {header.level}\t{counts}\t{len(chunk)} bytes\t{address}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Lists the branches and tags of a database, and chunks below one.")
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("database")
    parser.add_argument("--ref", default="heads/main", help="show what this one names [default: %(default)s]")
    parser.add_argument("--depth", type=int, default=2, help="and chunks so many steps below [default: %(default)s]")
    parser.add_argument("--watch", action="store_true", help="then say when branches and tags change, until stopped")
    arguments = parser.parse_args()
    client = Client(arguments.server, arguments.database, os.environ.get("PLEACH_TOKEN"))

    watching = client.watch()
    refs = next(watching)
    for name, commit in sorted(refs.items()):
        print(f"{name}\t{commit.hex()}")
    if arguments.ref in refs:
        commit = refs[arguments.ref]
        below: list[tuple[list[int], bytes]] = [([], commit)]
        for _ in range(arguments.depth + 1):
            chunks = client.get(arguments.ref, commit, below)
            next_below = []
            for (steps, _), chunk in zip(below, chunks):
                show(steps, chunk)
                children = header_of(chunk).children
                next_below += [(steps + [index], child) for index, child in enumerate(children)]
            below = next_below
    while arguments.watch:
        before, refs = refs, next(watching)
        for name in sorted(before.keys() | refs.keys()):
            if before.get(name) != refs.get(name):
                print(f"{name}\t{refs[name].hex() if name in refs else 'gone'}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except Refused as error:
        sys.exit(f"refused: {error}")
    except KeyboardInterrupt:
        pass
